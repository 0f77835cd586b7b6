"""The error of a single input."""


class ItemError(Exception):
    """One input cannot become a vector; the job goes on and the ledger gets a line.

    Attributes:
      code: stable, lower_snake_case, listed in docs/failures.md; scripts may rely on it.
      http_status: of the answer that ended it, where there was one.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None):
        super().__init__(message)
        self.code, self.http_status = code, http_status
