"""A Messenger bot that answers from pagesync: opening hours, phone number and address of a Page.

It gets messages as pagesync forwards them, checks Facebook's signature itself, reads Pages from the HTTP
API of pagesync, follows their changes, and answers with the token of the Page. It needs Python 3.8.

  PAGESYNC_URL      the API, such as http://127.0.0.1:5001       PAGESYNC_KEY        a key of the scope read
  PAGE_TOKENS_URL   the token listener, http://127.0.0.1:5002    PAGE_TOKENS_KEY     a key of the scope token
  FACEBOOK_APP_SECRET                                            GRAPH_URL, BOT_LISTEN (127.0.0.1:8000)
A setting can also be read from a file: PAGESYNC_KEY_FILE=/path.
"""
import collections, hashlib, hmac, http.server, json, os, sys, threading, time, urllib.error, urllib.request


def setting(name, default=None):
    path = os.environ.get(name + "_FILE")
    return open(path).read().strip() if path else os.environ.get(name, default)


def call(url, key=None, body=None):
    """Returns the JSON of an answer. Raises HTTPError if the status is an error."""
    headers = {"Authorization": "Bearer " + key} if key else {}
    data = None
    if body is not None:
        headers["Content-Type"], data = "application/json", json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=45) as answer:
        return json.load(answer)


class Pages:
    """The values of Pages, as the API has them."""
    def __init__(self):
        self.url, self.key, self.known = setting("PAGESYNC_URL") + "/v1", setting("PAGESYNC_KEY"), {}
        self.changes = 0
    def get(self, page):
        known, changes = self.known.get(page), self.changes
        if known is None:
            known = call(f"{self.url}/pages/{page}", self.key)["fields"]
            if changes == self.changes:  # Nothing has changed while it was read.
                self.known[page] = known
        return {name: field["value"] for name, field in known.items()}
    def follow(self):
        """Forgets a Page when it changes, so that the next question reads it again."""
        after = "newest"
        while True:
            try:
                answer = call(f"{self.url}/changes?wait=30s&after={after}", self.key)
                for change in answer["changes"]:
                    self.changes += 1
                    self.known.pop(change["page_id"], None)
                after = answer["cursor"]
            except urllib.error.HTTPError as error:
                if error.code != 410:
                    time.sleep(5)
                # After 410, changes are missing: begin again with the newest.
                after, self.changes = "newest", self.changes + 1
                self.known.clear()
            except OSError:
                time.sleep(5)


class Tokens:
    """The tokens of Pages. Each is kept until Facebook refuses it."""
    def __init__(self):
        self.url, self.key, self.known = setting("PAGE_TOKENS_URL"), setting("PAGE_TOKENS_KEY"), {}
    def get(self, page):
        known = self.known.get(page) or call(f"{self.url}/page-tokens/{page}", self.key)["token"]
        self.known[page] = known
        return known


def answer_to(text, page):
    text, name = text.lower(), page.get("name") or "this Page"
    topics = [
        (("open", "hours", "close"), "hours", "Our opening hours"),
        (("phone", "call", "number"), "phone", "Our phone number"),
        (("address", "where", "find you"), "single_line_address", "Our address"),
    ]
    for words, field, title in topics:
        if any(word in text for word in words):
            value = page.get(field)
            shown = value if isinstance(value, str) else json.dumps(value) if value else None
            return f"{name}: {title}: {shown}" if shown else f"{name}: I do not know that. A person will answer you."
    return f"{name}: Ask me for our opening hours, our phone number or our address."


def hmac_hex(data):
    return hmac.new(setting("FACEBOOK_APP_SECRET").encode(), data, hashlib.sha256).hexdigest()


def reply(page, person, text):
    """Sends a message as the Page. A token that Facebook refuses is fetched once more."""
    url = setting("GRAPH_URL", "https://graph.facebook.com") + "/v25.0/me/messages?appsecret_proof="
    body = {"recipient": {"id": person}, "messaging_type": "RESPONSE", "message": {"text": text}}
    for attempt in (1, 2):
        try:
            token = TOKENS.get(page)
            return call(url + hmac_hex(token.encode()), token, body)
        except urllib.error.HTTPError as error:
            if error.code not in (400, 401) or attempt == 2:
                raise
            TOKENS.known.pop(page, None)


class Webhook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The messages that were answered. pagesync sends a delivery again that was not accepted.
    done, lock = collections.OrderedDict(), threading.Lock()
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not hmac.compare_digest("sha256=" + hmac_hex(body), self.headers.get("X-Hub-Signature-256", "")):
            return self.finish_with(401)
        try:
            delivery = json.loads(body)
        except ValueError:  # Facebook signed it, and it will not become readable.
            return self.finish_with(200)
        try:
            for entry in delivery.get("entry", []):
                for event in entry.get("messaging", []):
                    self.handle_event(entry["id"], event)
        except (OSError, ValueError, KeyError) as error:
            print("a message is not answered yet:", type(error).__name__, error, file=sys.stderr, flush=True)
            return self.finish_with(500)  # pagesync sends it again.
        self.finish_with(200)
    def handle_event(self, page, event):
        message = event.get("message", {})
        mid, text = message.get("mid"), message.get("text")
        if not text or message.get("is_echo") or mid in self.done:
            return
        reply(str(page), event["sender"]["id"], answer_to(text, PAGES.get(str(page))))
        with self.lock:
            self.done[mid] = True
            while len(self.done) > 10_000:
                self.done.popitem(last=False)
    def finish_with(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    log_message = staticmethod(lambda *_: None)


if __name__ == "__main__":
    PAGES, TOKENS = Pages(), Tokens()
    threading.Thread(target=PAGES.follow, daemon=True).start()
    host, port = setting("BOT_LISTEN", "127.0.0.1:8000").rsplit(":", 1)
    http.server.ThreadingHTTPServer((host, int(port)), Webhook).serve_forever()
