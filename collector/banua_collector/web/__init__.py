"""The status page: ``words`` (languages, numbers, times) → ``view`` (a status in words) → ``app`` (HTTP)."""
