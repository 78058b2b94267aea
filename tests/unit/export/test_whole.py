"""The merge of the whole model at once says how far it is at every pass over the weights."""

from core.export.merge_whole_child import Told


def test_each_pass_is_told_in_bytes():
    events = []
    told = Told(events.append, 1000)
    for _ in range(4):
        told.step()
    assert [event["done"] for event in events] == [0, 250, 500, 750, 1000]
    assert {(event["event"], event["total"], event["unit"]) for event in events} == {("progress", 1000, "bytes")}
