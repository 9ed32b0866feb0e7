"""SINR as vendors encode it: the raw value, the formula that was used, and dB where the formula gives them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from banua_probe.modem.ranges import Ranges, within
from banua_probe.modem.reading import Formula

_TO_DB: Final[Mapping[Formula, Callable[[float], float]]] = {
    "quectel_2x-20": lambda raw: 2 * raw - 20,
    "quectel_x/5-20": lambda raw: raw / 5 - 20,
    "simcom_2n-20": lambda raw: 2 * raw - 20,
    "huawei_-20.2+n/5": lambda raw: (raw - 101) / 5,
    "db": lambda raw: raw,
}  # "raw" is not here: what it stands for is disputed
_RAW: Final[Ranges] = {"sinr_raw": (-4000, 4000)}  # the data dictionary's range; -32768 stands for "no value"


def sinr(raw: float | None, formula: Formula, ranges: Ranges) -> dict[str, Any]:
    """Return the SINR fields, none of them if the value is unknown (Quectel sends -3276 under LIMSRV)."""
    to_db = _TO_DB.get(formula)
    if to_db is None:
        known = within(_RAW, "sinr_raw", raw)
        return {} if known is None else {"sinr_raw": known, "sinr_formula": formula}
    if raw is None or within(ranges, "sinr_db", to_db(raw)) is None:
        return {}
    return {"sinr_raw": raw, "sinr_db": to_db(raw), "sinr_formula": formula}
