"""Copies all Pages into PostgreSQL and keeps them up to date.

Rows and cursor change in one transaction, so the copy is complete up to its cursor whenever this program
or the database ends. Needs the package psycopg. PAGESYNC_URL, PAGESYNC_KEY and DATABASE_URL are set.
"""
import json
import os
import pathlib
import urllib.error
import urllib.request

import psycopg
from psycopg.types.json import Jsonb


def api(path):
    headers = {"Authorization": "Bearer " + os.environ["PAGESYNC_KEY"]}
    request = urllib.request.Request(os.environ["PAGESYNC_URL"] + "/v1/" + path, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def save_cursor(database, cursor):
    database.execute(
        "INSERT INTO pages_cursor (cursor) VALUES (%s)"
        " ON CONFLICT (only_row) DO UPDATE SET cursor = excluded.cursor",
        [cursor],
    )


def copy_all(database, cursor):
    """Loads every Page. The changes after the cursor, which is older than the Pages, come afterwards."""
    with database.transaction():
        database.execute("DELETE FROM pages")
        after = ""
        while after is not None:
            part = api("pages?fields=all&limit=500&after=" + after)
            for page in part["pages"]:
                insert(database, page)
            after = part["next"]
        save_cursor(database, cursor)


def insert(database, page):
    fields = {name: field["value"] for name, field in page.get("fields", {}).items()}
    database.execute(
        "INSERT INTO pages VALUES (%s, %s, %s, %s)",
        [page["id"], page["version"], page["status"], Jsonb(fields)],
    )


def load(database, page_id):
    """Replaces the row of a Page whose change does not say everything, or deletes it."""
    database.execute("DELETE FROM pages WHERE id = %s", [page_id])
    try:
        insert(database, api("pages/" + page_id))
    except urllib.error.HTTPError as error:
        # 404: the key does not see the Page any more.
        if error.code != 404:
            raise


def apply(database, change):
    if change["cause"] == "erasure":
        database.execute("DELETE FROM pages WHERE id = %s", [change["page_id"]])
        return
    if change["cause"] == "client" or change["changes"] is None or change["status"] is None:
        load(database, change["page_id"])
        return
    fields = {one["field"]: one["after"] for one in change["changes"]}
    # A change that is already part of the row has no greater version than the row.
    database.execute(
        "INSERT INTO pages VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
        " version = excluded.version, status = excluded.status, fields = pages.fields || excluded.fields"
        " WHERE pages.version < excluded.version",
        [change["page_id"], change["version"], change["status"], Jsonb(fields)],
    )


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        database.execute(pathlib.Path(__file__).with_name("schema.sql").read_text())
        row = database.execute("SELECT cursor FROM pages_cursor").fetchone()
        cursor = row[0] if row else None
        while True:
            try:
                if cursor is None:
                    cursor = api("changes?after=newest")["cursor"]
                    copy_all(database, cursor)
                answer = api("changes?limit=1000&wait=30s&after=" + cursor)
            except urllib.error.HTTPError as error:
                # 410: changes after the cursor are no longer stored, so all Pages are copied again.
                if error.code != 410:
                    raise
                cursor = None
                continue
            with database.transaction():
                for change in answer["changes"]:
                    apply(database, change)
                save_cursor(database, answer["cursor"])
            cursor = answer["cursor"]


main()
