"""Flags: as people write them, and nothing dropped in silence."""

import pytest
from refusals import refuses

from scaling import flags
from scaling.errors import Code, UserError
from scaling.flags import Flag


def test_flags_are_read_as_people_write_them():
    declared = [Flag("workdir", str, ""), Flag("cut", int, ""), Flag("json", bool, "", False), Flag("noise", float, "")]
    given = flags.read(declared, ["a", "--workdir", "w=1", "-cut=1e6", "--json", "--noise=-1e-3", "--", "--json"])
    assert given.flags == {"workdir": "w=1", "cut": 10**6, "json": True, "noise": -1e-3}
    assert given.positional == ["a", "--json"] and given.config is None
    for text, value in (("2.3M", 2_300_000), ("7B", 7 * 10**9), ("1T", 10**12), ("512K", 512_000)):
        read = flags.read(declared, [f"--cut={text}", f"--noise={text}"]).flags
        assert read == {"cut": value, "noise": value} and isinstance(read["cut"], int)
    assert flags.read(declared, ["--nojson"]).flags == flags.read(declared, ["--json=FALSE"]).flags == {"json": False}
    assert flags.read(declared, ["--cut=2", "--cut", "2"]).flags == {"cut": 2}  # said twice, and no other way
    study = flags.read(declared, ["--config", "a.py:b", "--config.x.y", "3", "--config.z==="], study=True)
    assert study.config == "a.py:b" and study.overrides == [("config.x.y", "3"), ("config.z", "==")]
    for wrong in (
        "--cut=1.5",
        "--noise=7m",
        "--noise=M",
        "--noise=1e999999K",
        "--cut=1.0001K",
        "--cut=inf",
        "--cut=" + "9" * 5000,
        "--noise=",
        "--nocut",
        "--cut",
    ):
        with pytest.raises(UserError):
            flags.read(declared, [wrong])


@pytest.mark.parametrize("twice", ["--flops=1e9 --flops=2e9", "--json --nojson", "--config.steps=1 --config.steps=2"])
def test_a_flag_with_two_values_is_refused(twice: str):
    with refuses(Code.CONFLICT, twice.split("=")[0].split()[0].lstrip("-")):
        flags.read([Flag("flops", float, ""), Flag("json", bool, "")], twice.split(), study=True)
