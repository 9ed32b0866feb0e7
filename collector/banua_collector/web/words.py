"""The two languages of the page: catalogues compiled at start, numbers and times as people here write them."""

import gettext
import io
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from babel import Locale
from babel.dates import format_date, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent

LANGUAGES: Final = ("id", "en")
"""Indonesian first: it is what one gets who asks for neither."""
CATALOGUES: Final = Path(__file__).parent / "locale"
_LOCALES: Final = {"id": "id_ID", "en": "en_GB"}
_WITA: Final = timezone(timedelta(hours=8), "WITA")


class Language:
    """One language: its words, and how it writes numbers and times."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.translations = _compiled(code)
        self._locale = Locale.parse(_LOCALES[code])

    def word(self, context: str, name: str) -> str:
        """Return the word for a name of ours (`context`: kind, field or value); the name itself if there is none."""
        return self.translations.pgettext(context, name)

    def number(self, value: float) -> str:
        """Return `value` with at most two decimals."""
        return format_decimal(value, format="#,##0.##", locale=self._locale)

    def percent(self, share: float) -> str:
        """Return a share of 1 in percent."""
        return format_percent(share, format="#,##0.#%", locale=self._locale)

    def moment(self, ms: int, now_ms: int) -> str:
        """Return a time of day in Central Indonesian Time, with its date unless that is today's."""
        then, now = (datetime.fromtimestamp(each / 1000, UTC).astimezone(_WITA) for each in (ms, now_ms))
        time = f"{then:%H:%M} WITA"
        return time if then.date() == now.date() else f"{format_date(then, 'd MMM y', locale=self._locale)} {time}"

    def ago(self, ms: int, now_ms: int) -> str:
        """Return how long before `now_ms` the time `ms` was; a clock that is ahead counts as now."""
        elapsed = timedelta(milliseconds=min(ms - now_ms, 0))
        return format_timedelta(elapsed, add_direction=True, locale=self._locale)

    def span(self, ms: int) -> str:
        """Return a length of time in its largest unit."""
        return format_timedelta(timedelta(milliseconds=ms), threshold=1, locale=self._locale)


def chosen(wanted: str | None, accept_language: str) -> str:
    """Return the language to speak: the one that was asked for, else the first of ours that the browser accepts."""
    if wanted in LANGUAGES:
        return wanted
    accepted = sorted((_accepted(part) for part in accept_language.split(",")), key=lambda pair: pair[1], reverse=True)
    return next((code for code, quality in accepted if code in LANGUAGES and quality > 0), LANGUAGES[0])


def _accepted(part: str) -> tuple[str, float]:
    code, _, parameter = part.partition(";")
    name, _, quality = parameter.strip().partition("=")
    try:
        return code.strip().lower().partition("-")[0], float(quality) if name == "q" else 1.0
    except ValueError:
        return "", 0.0


def _compiled(code: str) -> gettext.GNUTranslations:
    with (CATALOGUES / code / "LC_MESSAGES" / "banua_collector.po").open("rb") as source:
        catalogue = read_po(source, locale=code)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
