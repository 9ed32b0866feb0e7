"""What `banua-lab` says to numbers that cannot be: one line with the limit, never a traceback."""

from __future__ import annotations

import pytest

from banua_lab import cli


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["demo", "--port", "99999"], "argument --port: '99999' is not a whole number within 1…65535"),
        (["demo", "--port", "-1"], "argument --port: '-1' is not a whole number within 1…65535"),
        (["demo", "--port", "web"], "argument --port: 'web' is not a whole number within 1…65535"),
        (
            ["load", "p.toml", "--truth", "t", "--seed", "1", "--period-ms", "0"],
            "argument --period-ms: '0' is not a whole number within 10…86400000",
        ),
    ],
)
def test_a_number_that_cannot_be_is_told_with_its_limit(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(told)
