"""python-socketio against a running Tidegate: rooms.py TRANSPORT[,TRANSPORT]. Exits with 0 when all went well."""

import base64
import hashlib
import hmac
import json
import os
import queue
import sys
import time

import socketio

URL = os.environ["TIDEGATE_URL"]
SECRET = os.environ["TIDEGATE_JWT_SECRET"]
# Longest wait for anything that must happen, seconds. Reached only on a failure.
PATIENCE = 30


def token(user):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"sub": user, "userId": user, "username": user, "exp": int(time.time()) + 3600}
    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (head + b"." + part(hmac.new(SECRET.encode(), head, hashlib.sha256).digest())).decode()


class Person:
    """A connected client that keeps what it hears."""

    def __init__(self, user, transports):
        self.socket = socketio.Client(reconnection=False)
        self.messages = queue.Queue()
        # A recoverable event has its offset as one more argument.
        self.socket.on("room:message", lambda message, *_: self.messages.put(message))
        self.socket.connect(URL, auth={"token": token(user)}, transports=transports, wait_timeout=PATIENCE)

    def call(self, event, body):
        return self.socket.call(event, body, timeout=PATIENCE)

    def hears(self):
        return self.messages.get(timeout=PATIENCE)


def main(transports):
    ada, bob = Person("ada", transports), Person("bob", transports)
    try:
        for person in (ada, bob):
            assert person.call("room:join", {"room": "quay"})["success"] is True
        for payload in (1, "zwei \u2028 \U0001f30a", {"three": [None, True]}, {"bytes": bytes(range(256))}, b"only"):
            answer = ada.call("room:send", {"room": "quay", "payload": payload})
            assert answer["success"] is True, answer
            for person in (ada, bob):
                heard = person.hears()
                assert heard["payload"] == payload, (heard, payload)
                assert heard["from"] == "ada", heard
        stored = ada.call("room:send", {"room": "quay", "payload": "kept", "persistent": True})
        assert stored["success"] is True, stored
        page = bob.call("room:history", {"room": "quay"})
        assert page["messages"][-1]["payload"] == "kept", page
        assert bob.call("room:leave", {"room": "quay"})["success"] is True
        refused = bob.call("room:send", {"room": "quay", "payload": 1})
        assert refused["success"] is False, refused

        stranger, refusals = socketio.Client(reconnection=False), []
        stranger.on("connect_error", refusals.append)
        try:
            stranger.connect(URL, auth={"token": "garbage"}, transports=transports, wait_timeout=PATIENCE)
            raise AssertionError("a bad token was let in")
        except socketio.exceptions.ConnectionError:
            assert refusals == [{"message": "Invalid token"}], refusals
    finally:
        ada.socket.disconnect()
        bob.socket.disconnect()


if __name__ == "__main__":
    main(sys.argv[1].split(","))
