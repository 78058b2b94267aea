"""Loaded models, shared by everybody who chats: one process per model, asked in turn, unloaded when nobody uses it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from core.chat import memory
from core.chat.engine import Answering
from core.chat.memory import Need, Room
from core.chat.sources import Source
from core.errors import UserError
from core.training.hardware import cpu_count
from ui import zero_gpu

IDLE_S = 600.0  # unloaded after so long
SWEEP_S = 15.0
MAX_LOADED = 8
LOOK_S = 0.1  # between two looks at what the models have written
SMALLER = "Choose fewer models, smaller levels or a shorter context."
Key = tuple[str, int | None, str]  # engine id, context length asked for, key of an endpoint


class Place:
    """A loaded model and the line of those who want it: first come, first served."""

    def __init__(self, engine: Answering, need: Need) -> None:
        self.engine, self.need = engine, need
        self.users = 0
        self.used_s = time.monotonic()
        self._line: deque[object] = deque()
        self._moved = threading.Condition()

    def enter(self, given_up: threading.Event, on_wait: Callable[[int], None]) -> bool:
        """Wait for one's turn, told how many are before; False when `given_up` was set meanwhile, and then there is nothing to leave."""
        ticket = object()
        with self._moved:
            self._line.append(ticket)
            while self._line[0] is not ticket:
                if given_up.is_set():
                    self._line.remove(ticket)
                    return False
                on_wait(self._line.index(ticket))
                self._moved.wait(LOOK_S)
        return True

    def leave(self) -> None:
        with self._moved:
            self._line.popleft()
            self._moved.notify_all()


class Pool:
    """Every loaded model of this process."""

    def __init__(self, max_loaded: int = MAX_LOADED, idle_s: float = IDLE_S) -> None:
        self.max_loaded, self.idle_s = max_loaded, idle_s
        self._places: dict[Key, Place] = {}
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None

    def take(self, wanted: Sequence[Source], context_length: int | None = None) -> list[Place]:
        """A place for each source, loaded already or loading from now on; `give_back` them. Sources of one process share a place.

        What nobody uses is unloaded where it stands in the way.

        Raises:
            UserError: too many models are in use, memory is short, or a file is damaged.
        """
        with self._lock:
            named = [(source.engine_id, context_length, keys.get(source.id, "")) for source in wanted]
            fresh = {key: source for key, source in zip(named, wanted, strict=True) if key not in self._places}
            self._make_room(fresh, set(named))
            needs = self._make_memory(fresh, set(named), context_length)
            for key, source in fresh.items():
                self._places[key] = Place(open_source(source, context_length), needs[key])
            places = [self._places[key] for key in named]
            for place in places:
                place.users += 1
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, daemon=True)
                self._sweeper.start()
            return places

    def give_back(self, places: Sequence[Place]) -> None:
        with self._lock:
            for place in places:
                place.users -= 1
                place.used_s = time.monotonic()

    def loaded(self) -> list[str]:
        """The ids of the loaded models."""
        with self._lock:
            return [engine_id for engine_id, *_ in self._places]

    def unload_idle(self, idle_s: float) -> None:
        with self._lock:
            for identifier, place in list(self._places.items()):
                if not place.users and time.monotonic() - place.used_s >= idle_s:
                    self._places.pop(identifier).engine.close()

    def _make_room(self, fresh: Mapping[Key, Source], wanted: set[Key]) -> None:
        """Unload what is idle: the same models with another context length or key, and the ones used longest ago."""
        idle = self._idle(wanted)
        again = {engine_id for engine_id, *_ in fresh}
        stale = [key for key in idle if key[0] in again]
        oldest = [key for key in idle if key not in stale]
        for key in stale + oldest[: max(0, len(self._places) - len(stale) + len(fresh) - self.max_loaded)]:
            self._places.pop(key).engine.close()
        if len(self._places) + len(fresh) > self.max_loaded:
            remedy = "Wait until an answer is finished, or choose a model that is loaded already."
            raise UserError(f"{len(self._places)} models are in use, as many as may be loaded at once.", "the chat", remedy, code="BUSY")

    def _make_memory(self, fresh: Mapping[Key, Source], wanted: set[Key], context_length: int | None) -> dict[Key, Need]:
        """Unload idle models, the ones used longest ago first, until the fresh ones fit. Returns what each of those takes.

        Raises:
            UserError: they do not fit even then (code MEMORY), and nothing is unloaded.
        """
        if not fresh:
            return {}
        at = memory.room()
        needs = {key: memory.needed([source], at, context_length) for key, source in fresh.items()}
        need, idle, leaving = sum(needs.values(), Need()), self._idle(wanted), list[Key]()
        while (short := memory.shortage(need, at)) and idle:
            leaving.append(idle.pop(0))
            at = at.with_back(self._places[leaving[-1]].need)
        if short:
            raise UserError(short, "the models chosen", SMALLER, code="MEMORY")
        for key in leaving:
            self._places.pop(key).engine.close()
        return needs

    def room_for(self, wanted: Sequence[Source]) -> Room:
        """What is free for `wanted`, counting what idle models would give back."""
        at, ids = memory.room(), {source.engine_id for source in wanted}
        with self._lock:
            for key in self._idle(set()):
                at = at if key[0] in ids else at.with_back(self._places[key].need)
        return at

    def _idle(self, wanted: set[Key]) -> list[Key]:
        """What nobody uses or wants, the ones used longest ago first."""
        unused = [key for key, place in self._places.items() if not place.users and key not in wanted]
        return sorted(unused, key=lambda key: self._places[key].used_s)

    def _sweep(self) -> None:
        while True:
            time.sleep(min(SWEEP_S, self.idle_s))
            self.unload_idle(self.idle_s)


def open_source(source: Source, context_length: int | None) -> Answering:
    if zero_gpu.is_here() and source.artifact and source.artifact.kind != "gguf":
        return zero_gpu.Model(source.artifact, context_length)
    return source.open(context_length=context_length, threads=max(1, cpu_count() // 2), key=keys.get(source.id, ""))


keys: dict[str, str] = {}  # of endpoints, by source id; in this process only


def loaded() -> list[str]:
    """The ids of the models that are loaded now."""
    return pool.loaded()


def room_for(wanted: Sequence[Source]) -> Room:
    """What is free for `wanted` on this machine; idle models make way."""
    return pool.room_for(wanted)


pool = Pool()
