"""A real chat child without native code: its model spells, letter by letter, the reply that the last message asks for."""

import os
import time

import numpy as np

from core.chat.child import Loaded, run
from core.errors import UserError
from core.export.native_support import Stopped

END = 256


class Letters:
    """Tokens are bytes. After ``ASSISTANT:`` it says what the last user message was, and then ends, or never ends."""

    context_length = 4000

    def __init__(self, delay_s):
        self.delay_s = delay_s
        self.should_stop = lambda: False
        self.cached = []

    def encode(self, text):
        return list(text.encode())

    def stop_when(self, should_stop):
        self.should_stop = should_stop

    def feed(self, ids):
        if self.should_stop():
            raise Stopped
        time.sleep(self.delay_s)
        question, _, said = bytes(ids).decode(errors="surrogateescape").rpartition(" ASSISTANT:")
        asked = question.rpartition("USER: ")[2]
        if asked == "die":
            os.abort()
        if asked == "too much":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if asked == "forever":
            asked = "x" * (len(said) + 1)
        reply = (" " + asked).encode(errors="surrogateescape")
        done = len(said.encode(errors="surrogateescape"))
        logits = np.zeros(257, dtype=np.float32)
        logits[reply[done] if done < len(reply) else END] = 9
        return logits

    def is_end(self, token_id):
        return token_id == END

    def text_stream(self):
        import codecs

        class Stream:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

            def step(self, token_id):
                return self.decoder.decode(bytes([token_id]))

        return Stream()


def load(payload):
    if payload.get("refuse"):
        raise UserError("This cannot be loaded.", "a test", "Try another.", "LOAD")
    if payload.get("crash"):
        os.abort()
    if payload.get("huge"):
        raise MemoryError
    time.sleep(payload.get("load_s", 0))
    return Loaded(Letters(payload.get("delay_s", 0)), payload.get("template"), "", "")


if __name__ == "__main__":
    run(load)
