"""Which numbered message was taken before: the rules of `numbering`, by their numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sattn_runtime.sources.numbering import Numbering, Verdict

NEW, AGAIN, RESTART = Verdict.NEW, Verdict.AGAIN, Verdict.RESTART


def judged(numbering: Numbering, *seqs: int, count: int = 1, checksum: int = 0) -> list[Verdict]:
    """Messages whose bytes follow from their number."""
    return [numbering.judge(seq, count, checksum + seq) for seq in seqs]


def test_rule_1_the_same_number_and_bytes():
    assert judged(Numbering(100), 0, 1, 1, 0, 2, 1) == [NEW, NEW, AGAIN, AGAIN, NEW, AGAIN]


def test_rule_2_what_an_earlier_run_was_done_with():
    assert judged(Numbering(100, after=5), 4, 5, 6, 7, 5) == [AGAIN, AGAIN, NEW, NEW, AGAIN]
    assert judged(Numbering(10, after=500), 489, 490) == [RESTART, NEW]  # too far back to be given again
    assert judged(Numbering(10, after=500), 490) == [AGAIN]


def test_rule_2_a_sender_that_began_anew_while_nobody_read():
    """Only what the broker gave before can be far back, and only what came just before can be a sender's repeat."""
    assert Numbering(32_768, after=5000).judge(0, 1, 0) is RESTART
    assert Numbering(32_768, after=5000).judge(0, 1, 0, repeated=True) is AGAIN
    assert judged(Numbering(32_768, after=5000), 4743, 4744) == [RESTART, NEW]
    assert judged(Numbering(32_768, after=5000), 4744, 4745) == [AGAIN, AGAIN]


def test_rule_2_ends_for_a_sender_that_begins_anew_later():
    numbering = Numbering(32_768, after=100)
    assert judged(numbering, 99) == [AGAIN]
    assert judged(numbering, *range(101, 358)) == [NEW] * 257
    assert judged(numbering, 99) == [AGAIN]  # by rule 1
    assert judged(numbering, 0, 1) == [RESTART, NEW]


def test_rule_2_ends_when_more_was_taken_than_can_be_given_again():
    numbering = Numbering(10, after=5)
    assert judged(numbering, *range(6, 16)) == [NEW] * 10
    assert judged(numbering, 3) == [AGAIN]
    assert judged(numbering, 16, 2) == [NEW, RESTART]


def test_a_message_that_is_done_with_in_part():
    numbering = Numbering(100, after=5)
    assert judged(numbering, 0, 4, count=4) == [AGAIN, NEW]
    assert (numbering.already_done(4), numbering.already_done(8)) == (2, 0)
    assert Numbering(100).already_done(4) == 0


def test_rule_3_other_bytes_under_a_known_number():
    numbering = Numbering(100)
    assert judged(numbering, 0, 1, 2) == [NEW] * 3
    assert judged(numbering, 0, 1, 2, checksum=77) == [RESTART, NEW, NEW]
    assert judged(numbering, 2, 1) == [AGAIN, AGAIN]  # given again, of the numbering before
    assert judged(numbering, 1, checksum=77) == [AGAIN]


def test_rule_3_a_number_older_than_what_is_remembered():
    numbering = Numbering(10)
    judged(numbering, *range(100, 120))
    assert judged(numbering, 110, 109) == [AGAIN, RESTART]
    assert judged(numbering, 111, 1) == [AGAIN, NEW]


def test_rule_4_late_ones():
    assert judged(Numbering(100), 0, 3, 2, 1, 2) == [NEW, NEW, NEW, NEW, AGAIN]


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(31, 60))
def test_every_message_once_however_often_and_in_whatever_order(seqs, memory):
    numbering, taken = Numbering(memory), []
    for seq, verdict in zip(seqs, judged(numbering, *seqs), strict=True):
        assert verdict is not RESTART
        if verdict is NEW:
            taken.append(seq)
    assert sorted(taken) == sorted(set(seqs))


def test_what_is_remembered_is_bounded():
    numbering = Numbering(10)
    judged(numbering, *range(1000))
    assert (len(numbering._seen), len(numbering._present)) == (10, 10)
