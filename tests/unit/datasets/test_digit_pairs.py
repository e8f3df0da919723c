"""Digits with another speaker held out, or each voice several times: nothing of the test is ever drawn."""

from collections import Counter

from tests.realdata import SPEAKERS_HELD_OUT, columns_of, pair_digits

NAMES = ("speaker", "take", "label", "picture", "pen")


def rows(folder, split):
    return list(columns_of(folder, split, *NAMES))


def test_another_speaker_held_out_draws_nothing_of_the_test(real_data, tmp_path):
    pair_digits(real_data, tmp_path / "test", repeats=3)
    pair_digits(real_data, tmp_path / "tune", speaker="nicolas", repeats=2, share=0.45)
    test = rows(tmp_path / "test", "validation")
    tune = {split: rows(tmp_path / "tune", split) for split in ("train", "validation")}
    assert {r["speaker"] for r in test} == set(SPEAKERS_HELD_OUT)
    assert {r["speaker"] for r in tune["train"]} == {"jackson", "yweweler"}
    assert {r["speaker"] for r in tune["validation"]} == {"nicolas"}
    for name in ("picture", "pen"):
        drawn = [{r[name] for r in split} for split in (test, *tune.values())]
        assert len(set.union(*drawn)) == sum(map(len, drawn)) == 500 + 2000 + 500


def test_repeated_voices_have_another_picture_and_pen_each_time(real_data, tmp_path):
    pair_digits(real_data, tmp_path / "once")
    pair_digits(real_data, tmp_path / "thrice", repeats=3)
    train = rows(tmp_path / "thrice", "train")
    voices = Counter((r["speaker"], r["label"], r["take"]) for r in train)
    assert set(voices.values()) == {3}
    assert len(voices) == 1500
    assert len({r["picture"] for r in train}) == len({r["pen"] for r in train}) == 4500
    once, thrice = (rows(tmp_path / name, "validation") for name in ("once", "thrice"))
    assert once == thrice
    assert len(once) == 500
