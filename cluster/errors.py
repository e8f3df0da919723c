"""What can be wrong with a cluster or a submission, said without a traceback."""


class ClusterError(Exception):
    """Base of all errors of this package: a cluster that can't be used, or a job that can't go there."""


class RefusedError(ClusterError):
    """The cluster wants a token that was not given, or another one than was given."""


class JobError(ClusterError):
    """A job that is not there, is there twice, or that the cluster did not take."""
