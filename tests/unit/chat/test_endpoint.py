"""An endpoint answers like any other model, with a real server of a few lines on this machine."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.chat.endpoint import Endpoint
from core.chat.sampling import Sampling
from core.errors import UserError


class Handler(BaseHTTPRequestHandler):
    """Says back the last message, word by word; ``forever`` does not end, ``broken`` breaks off, ``silent`` says nothing after a word."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers.get("Authorization") == "Bearer wrong":
            return self.reply(401, b"{}")
        return self.reply(200, json.dumps({"data": [{"id": "echo"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        if said == "refused":
            return self.reply(400, b"no such model")
        if said == "repeat the key":
            return self.reply(400, f"{'x' * 190} {self.headers['Authorization']} is no good key".encode())
        if said == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/v1/chat/completions")
            return self.end_headers()
        self.send_response(200)
        self.end_headers()
        if said.startswith(("{", "[")):
            self.wfile.write(b"data: " + said.encode() + b"\n\n")
            return None
        words = iter(lambda: "word", None) if said == "forever" else said.split()
        try:
            for word in words:
                choice = {"text": word + " "} if "prompt" in body else {"delta": {"content": word + " "}}
                self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
                self.wfile.flush()
                if said == "silent":
                    self.connection.settimeout(30)
                    self.server.left.set() if not self.rfile.read(1) else None
                    return None
                if said == "broken":
                    self.wfile.write(b"data: {not json\n\n")
                time.sleep(0.01)
            self.wfile.write(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')
        except OSError:
            self.server.left.set()

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.left = [], threading.Event()
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def endpoint(server):
    with Endpoint(f"http://127.0.0.1:{server.server_port}/v1") as opened:
        yield opened


def ask(text):
    return [{"role": "user", "content": text}]


def test_it_streams_and_says_how_it_ended(endpoint, server):
    *pieces, last = endpoint.stream(ask("one two three"), Sampling(temperature=0.5, seed=7, stop=("x",)))
    assert [piece.text for piece in pieces] == ["one ", "two ", "three "]
    assert last.done == "eos" and last.stats["generated_tokens"] == 3 and last.stats["first_token_s"] >= 0
    path, body = server.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "echo" and (body["seed"], body["stop"]) == (7, ["x"])
    assert "top_k" not in body and "repeat_penalty" not in body, "what was not asked for is not sent"


def test_a_raw_text_goes_to_the_other_address(endpoint, server):
    assert "".join(piece.text for piece in endpoint.stream("go on")) == "go on "
    assert server.asked[0][0] == "/v1/completions"
    assert endpoint.rendered("go on").text == "go on"
    with pytest.raises(UserError, match="does not say how it renders"):
        endpoint.rendered(ask("x"))


def test_stopping_ends_the_answer_and_hangs_up(endpoint, server):
    pieces = []
    for piece in endpoint.stream(ask("forever")):
        pieces.append(piece)
        if len(pieces) == 3:
            endpoint.stop()
    assert pieces[-1].done == "stopped" and len(pieces) < 10
    assert server.left.wait(10)


def test_stopping_wakes_an_endpoint_that_says_nothing_and_it_answers_again(endpoint, server):
    pieces = []
    for piece in endpoint.stream(ask("silent")):
        pieces.append(piece)
        if piece.text:
            threading.Timer(0.2, endpoint.stop).start()
    assert [piece.text for piece in pieces] == ["silent ", ""] and pieces[-1].done == "stopped"
    assert server.left.wait(10), "the endpoint was not hung up on"
    endpoint.model = ""  # so that it is asked for its models once more
    endpoint.close()  # as the pool does with what does not listen
    assert [piece.done for piece in endpoint.ready().stream(ask("again"))][-1] == "eos"


@pytest.mark.parametrize(
    ("event", "problem"),
    [('{"error": {"message": "out of memory"}}', "broke off: out of memory"), ('{"error": "busy"}', "broke off: busy"),
     ("[1]", "no part of an answer"), ('{"choices": {"a": 1}}', "no part of an answer"), ('{"choices": [7]}', "no part of an answer"),
     ('{"choices": [{"delta": "x"}]}', "no part of an answer")],
)  # fmt: skip
def test_an_event_of_an_error_or_of_something_else_becomes_a_sentence(endpoint, event, problem):
    with pytest.raises(UserError, match=problem):
        list(endpoint.stream(ask(event)))


@pytest.mark.parametrize(
    ("said", "problem"), [("refused", "answered 400: no such model"), ("elsewhere", "answered 302"), ("broken", "does not answer")]
)
def test_what_goes_wrong_is_said_in_words(endpoint, said, problem):
    with pytest.raises(UserError, match=problem):
        list(endpoint.stream(ask(said)))


def test_a_wrong_key_and_an_absent_server_are_told_apart(server):
    with Endpoint(f"http://127.0.0.1:{server.server_port}/v1", key="wrong") as refused, pytest.raises(UserError, match="this key"):
        refused.ready()
    with Endpoint("http://127.0.0.1:9/v1") as absent, pytest.raises(UserError, match="does not answer"):
        absent.ready()


def test_an_endpoint_that_repeats_the_key_does_not_have_it_shown(server):
    key = "of-no-known.shape"
    with Endpoint(f"http://127.0.0.1:{server.server_port}/v1", key=key) as opened:
        for said in ("repeat the key", json.dumps({"error": {"message": f"{key} has no credit"}})):
            with pytest.raises(UserError, match=r"\[s") as refused:  # of [secret], which may be cut with the rest of a long sentence
                list(opened.stream(ask(said)))
            assert "of-no" not in str(refused.value.as_dict())
