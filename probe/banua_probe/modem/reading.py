"""What one AT exchange told: a `Reading`."""

from dataclasses import dataclass, fields
from typing import Any, Final, Literal

State = Literal["registered", "denied", "limited", "no_service", "unknown"]
Rat = Literal["gsm", "umts", "lte", "nr_sa", "nr_nsa"]
Formula = Literal["quectel_2x-20", "quectel_x/5-20", "simcom_2n-20", "huawei_-20.2+n/5", "db", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Values of one reply, or of one poll after `merge`; None is unknown, never a number that stands for it.

    ``tac`` is the tracking area (LTE, NR) or location area (GSM, UMTS), ``earfcn`` the EARFCN or NR-ARFCN. ``rsrp_dbm``
    and its like belong to the technology in ``rat``, the ``nr_`` values to an NR cell beside it. EN-DC's reply has the
    parts ``lte`` and ``nr`` instead; `merge` makes them columns.
    """

    source: str
    """The command that told it, such as ``+QENG``; not part of `as_dict`."""
    state: State = "unknown"
    rat: Rat | None = None
    plmn: str | None = None
    cell_id: int | None = None
    pci: int | None = None
    earfcn: int | None = None
    band: int | None = None
    tac: int | None = None
    rsrp_dbm: float | None = None
    rsrq_db: float | None = None
    rssi_dbm: float | None = None
    sinr_raw: float | None = None
    """As the modem sent it; ``sinr_formula`` says how ``sinr_db`` came of it, "raw" that there is none: disputed."""
    sinr_db: float | None = None
    sinr_formula: Formula | None = None
    rscp_dbm: float | None = None
    ecno_db: float | None = None
    rxlev_dbm: int | None = None
    ber: int | None = None
    """RXQUAL class 0…7, not a percentage."""
    nr_rsrp_dbm: float | None = None
    nr_rsrq_db: float | None = None
    nr_sinr_raw: float | None = None
    nr_sinr_db: float | None = None
    nr_sinr_formula: Formula | None = None
    lte: "Reading | None" = None
    nr: "Reading | None" = None
    censored: tuple[str, ...] = ()
    """Names of values that are only a bound: the true one lies at or beyond it."""
    as_sent: tuple[str, ...] = ()
    """Names in the order of the reply, for `as_dict`, where that is not the order of these fields."""

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, ready for JSON: the state, then every value that is not None."""
        told: dict[str, Any] = {"state": self.state}
        for name in dict.fromkeys((*self.as_sent, *_VALUES)):
            value = getattr(self, name)
            if isinstance(value, Reading):
                told[name] = {key: part for key, part in value.as_dict().items() if key != "state"}
            elif value is not None:
                told[name] = value
        if self.censored:
            told["censored"] = list(self.censored)
        return told


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that no reader understood; ``line`` counts from 1."""

    error: str
    line: int

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {"error": self.error, "line": self.line}


_NOT_VALUES: Final = {"source", "state", "censored", "as_sent"}
_VALUES: Final = tuple(field.name for field in fields(Reading) if field.name not in _NOT_VALUES)
