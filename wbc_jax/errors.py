"""Every error of the package that a user can mend. Commands catch `UserError` and nothing else.

Each message names the file or field, what was found, what is allowed and what to do next. The
second base keeps `except ValueError` and `except RuntimeError` of callers working.
"""


class UserError(Exception):
    """Base of the errors that a command prints as `error: ...`, without a traceback."""


class ConfigError(UserError, ValueError):
    """A field of the configuration holds a value that is not allowed."""


class DataError(UserError, ValueError):
    """A file or a record of a user's data cannot be used."""


class InputError(UserError, ValueError):
    """The inputs of a command name nothing that can be processed."""


class CheckpointError(UserError, RuntimeError):
    """A run's folder or checkpoint is missing, damaged or of another network."""


class WeightsError(CheckpointError):
    """A file of weights is missing, damaged or something else."""


class AbstentionError(UserError, RuntimeError):
    """The abstention rule of a classifier is missing, damaged or of another network."""

    @classmethod
    def damaged(cls, path: object, why: object, remedy: str) -> "AbstentionError":
        """Returns the error of a damaged file; `remedy` is a sentence without its capital."""
        return cls(f"{path} is damaged ({why}); {remedy}")


class ShardsError(UserError, ValueError):
    """A listing, a shard number or a folder of Parquet shards cannot be used."""


class CompareError(UserError, ValueError):
    """Two runs cannot be compared."""


class ExportError(UserError, RuntimeError):
    """A model cannot be written in another form."""


class RunError(UserError, RuntimeError):
    """The files of a finished run are damaged."""


class RequestError(ConfigError):
    """A paper has no such table or figure."""


class PeerError(UserError, RuntimeError):
    """Another process of the run has failed."""


class NonFiniteLossError(UserError, RuntimeError):
    """The loss became NaN or infinite."""


class Interrupted(UserError, RuntimeError):
    """A signal ended training after the state was saved; the same command resumes it.

    Attributes:
        exit_code: 128 + the signal's number, as shells report it.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
