# Prints every Page, and then every change. PAGESYNC_URL and PAGESYNC_KEY are set.
import json, os, urllib.request

def api(path):
    headers = {"Authorization": "Bearer " + os.environ["PAGESYNC_KEY"]}
    request = urllib.request.Request(os.environ["PAGESYNC_URL"] + "/v1/" + path, headers=headers)
    return json.load(urllib.request.urlopen(request, timeout=60))

after, part = api("changes?after=newest")["cursor"], {"next": ""}
while part["next"] is not None:
    part = api("pages?limit=500&after=" + part["next"])
    for page in part["pages"]:
        print(page["id"], page["name"], flush=True)
while True:
    answer = api("changes?wait=30s&after=" + after)
    for change in answer["changes"]:
        print(json.dumps(change), flush=True)
    after = answer["cursor"]
