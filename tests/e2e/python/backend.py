"""A backend with nothing but the standard library. Exits with 0 when every answer was as described."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request

API = os.environ["TIDEGATE_URL"] + "/realtime"
KEY = os.environ["TIDEGATE_API_KEY"]


def call(method, path, body=None, **headers):
    request = urllib.request.Request(API + path, method=method)
    request.add_header("Authorization", "Bearer " + KEY)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def publish(body, room="quay", **headers):
    status, answer = call("POST", f"/rooms/{urllib.parse.quote(room, safe='')}/messages", body, **headers)
    assert status == 200, answer
    return answer


publish({"payload": "from Python"})
publish({"payload": {"grüße": "\U0001f30a"}})
publish({"event": "order:paid", "data": {"order": 17}})
kept = publish({"payload": "kept", "persistent": True, "from": "billing"})
status, page = call("GET", "/rooms/quay/history?limit=1")
assert status == 200 and page["messages"][0]["position"] == kept["position"], page
assert page["messages"][0]["args"][0]["from"] == "billing", page
first = publish({"payload": "again"}, Idempotency_Key="order-17")
assert publish({"payload": "again"}, Idempotency_Key="order-17") == first

status, answer = call("PUT", "/rooms/pier/members/ada")
assert (status, answer["connections"]) == (200, 1), answer
status, answer = call("GET", "/users/ada/connections")
assert sorted(answer["connections"][0]["namespaces"][0]["rooms"]) == ["pier", "quay"], answer

status, answer = call("POST", "/rooms/quay/messages", {"paylaod": 1})
assert status == 400 and "paylaod" in answer["error"]["message"], answer
status, answer = call("DELETE", "/users/ada/connections?reason=done")
assert (status, answer["disconnected"]) == (200, 1), answer
