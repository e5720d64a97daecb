"""Test the outbox file: order, recovery after a kill at any byte, bounded memory."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import _outbox as module
from orchestrator.tracking._outbox import HEAD, Outbox, OutboxReader
from orchestrator.tracking._writes import RunProgress, SetTags, Write, parse_line


def write(number: int, text: str = "", told: RunProgress | None = None) -> Write:
    return SetTags(run=str(number), tags={"text": text}, progress=told)


def numbers(outbox: Outbox) -> list[Any]:
    """Return the numbers of all unsent writes, read as the sender does."""
    reader = OutboxReader(outbox.file)
    found = read(reader)
    reader.close()
    return found


def read(reader: OutboxReader) -> list[Any]:
    found: list[Any] = []
    while several := reader.peek():
        found += [isinstance(given, SetTags) and int(given.run) for _, given in several]
        reader.sent(several[-1][0])
    return found


def test_writes_come_back_in_order_until_they_are_sent(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "a" / "outbox.jsonl")
    reader = OutboxReader(box.file)
    assert box.new and reader.peek() == [] and box.unsent == 0
    for number in range(5):
        box.append(write(number))
    first, second, *_ = reader.peek()
    assert (first[1], second[1]) == (write(0), write(1)) and box.unsent == 5
    reader.sent(second[0])
    assert box.unsent == 3 and box.mark == second[0]
    reader.close()  # the processes were killed
    again = Outbox(box.file)
    assert not again.new and again.unsent == 3 and numbers(again) == [2, 3, 4]
    assert Outbox(box.file).unsent == 0
    assert box.file.stat().st_mode & 0o777 == 0o600


def test_a_kill_at_any_byte_loses_the_last_write_at_most(tmp_path: Path) -> None:
    whole = Outbox(tmp_path / "whole")
    for number in range(3):
        whole.append(write(number, text="ä\n" * 3))
    reader = OutboxReader(whole.file)
    reader.sent(reader.peek()[0][0])
    content = whole.file.read_bytes()
    ends = [end for end, byte in enumerate(content, start=1) if byte == ord("\n")][1:]
    for size in range(len(content) + 1):
        file = tmp_path / "cut"
        file.write_bytes(content[:size])
        cut = Outbox(file)
        expected = [number for number, end in enumerate(ends) if end <= size and number >= 1]
        cut.append(write(7))
        assert numbers(cut) == [*expected, 7], size


def test_a_damaged_line_and_a_damaged_head_cost_nothing_else(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.jsonl")
    for number in range(3):
        box.append(write(number))
    content = bytearray(box.file.read_bytes())
    content[HEAD + 3] = ord("\x00")
    box.file.write_bytes(content)
    assert numbers(Outbox(box.file)) == [False, 1, 2]
    content[:HEAD] = b"x" * (HEAD - 1) + b"\n"
    box.file.write_bytes(content)
    assert numbers(Outbox(box.file)) == [False, 1, 2], "sent once more"


def test_long_lines_and_many_of_them_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    box = Outbox(tmp_path / "outbox.jsonl")
    for number in range(50):
        box.append(write(number, text="x" * (7 * number)))
    reader = OutboxReader(box.file)
    assert len(reader.peek()) < 5
    reader.close()
    assert numbers(Outbox(box.file)) == list(range(50))


def test_progress_survives_the_removal_of_sent_writes(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.jsonl")
    for number in range(100):
        told = RunProgress(epoch=number) if number % 2 else RunProgress(measured=number)
        box.append(SetTags(run="0", tags={}, progress=told))
    box.append(SetTags(run="1", tags={}, progress=RunProgress(state="complete", best_tag=3)))
    progress = {
        "0": RunProgress(epoch=99, measured=98),
        "1": RunProgress(state="complete", best_tag=3),
    }
    assert box.run_progress == progress and box.file.stat().st_size > 3000
    reader = OutboxReader(box.file, recovered=3000)
    first = reader.peek()[0][0]
    box.compact()
    assert box.unsent == 101 and box.file.stat().st_size > 3000, "something is unsent"
    assert read(reader) == [0] * 100 + [1] and first <= reader.recovered
    box.compact()
    assert box.file.stat().st_size < 300, "nothing of it is needed any more"
    box.append(write(101))
    again = Outbox(box.file)
    assert again.run_progress == progress and again.unsent == 1
    assert read(reader) == [101] and reader.recovered == 0, "it follows the new file"
    reader.close()
    assert again.close() == 0 and Outbox(box.file).run_progress == progress
    again.append(write(102))
    assert again.unsent == 0 and numbers(Outbox(box.file)) == [], "it is closed"


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path / "outbox.jsonl")
    box.append(write(0))
    real, room = os.pwrite, [7]

    def pwrite(descriptor: int, content: bytes, where: int) -> int:
        if where == 0 or len(content) <= room[0]:
            return real(descriptor, content, where)
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[: room[0]], where)

    monkeypatch.setattr(os, "pwrite", pwrite)
    box.append(write(1))
    room[0] = 0
    box.append(write(2))
    reader = OutboxReader(box.file)
    assert [given for _, given in reader.peek()] == [write(0)] and box.unsent == 3
    reader.close()
    last = box.file.read_bytes().splitlines()[-1]
    assert parse_line(last) == write(0), "no part of a line"
    assert not box.flush()
    room[0] = 1000
    assert box.flush()
    assert numbers(box) == [0, 1, 2] and box.unsent == 0


@pytest.mark.parametrize(
    "line",
    [
        {"do": "open", "run": "parent", "name": "n", "tags": {}, "at": 1, "told": {"state": "a"}},
        {"do": "points", "run": "0", "points": {"0": [["a", 1, 2, 3]]}, "told": {"epoch": 1}},
        {"do": "params", "run": "0", "params": {"a": "b"}},
        {"do": "tags", "run": "parent", "tags": {}, "told": {"best.tag": 3, "model": [3, 4]}},
        {"do": "tags", "run": "0", "tags": {"a": "b"}, "without": ["c"], "existing": True},
        {"do": "close", "run": "0", "tags": {}, "status": "FINISHED", "at": 1},
        {"do": "text", "run": "0", "text": "t", "file": "a.json"},
        {"do": "figures", "run": "0", "complete": True, "letters": ["a", "b"]},
        {
            "do": "front",
            "run": "parent",
            "plain": {"front": []},
            "values": {"1": [0.5, 2]},
            "numbers": [1],
            "names": ["accuracy"],
            "file": "front",
        },
        {"do": "dataset", "run": "0", "dataset": {"name": "n"}},
        {"do": "model", "run": "parent", "trial": 1, "letter": "a", "tags": {}},
        {"all_told": {"parent": {"best": [1, 2], "best.tag": 1, "teacher": True}}},
    ],
)
def test_stored_lines_keep_their_form(line: dict[str, Any]) -> None:
    content = parse_line(json.dumps(line).encode())
    assert content is not None
    stored = json.loads(json.dumps(content.plain()))
    assert line.items() <= stored.items()


def test_a_second_reader_waits_for_the_first(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.jsonl")
    box.append(write(0))
    first, found = OutboxReader(box.file), list[Any]()
    thread = threading.Thread(target=lambda: found.extend(numbers(box)))
    thread.start()
    box.append(write(1))
    assert read(first) == [0, 1] and found == []
    box.append(write(2))
    first.close()
    thread.join(10)
    assert found == [2], "it continues at the mark of the first"
