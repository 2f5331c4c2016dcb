"""Rewriting what a model knows: one fact, in one weight matrix."""

from patchclamp.rewriting.fact import sample_prefixes as sample_prefixes
from patchclamp.rewriting.moment import Covariance as Covariance
from patchclamp.rewriting.moment import covariance as covariance
from patchclamp.rewriting.moment import covariances as covariances
from patchclamp.rewriting.scores import Fact as Fact
from patchclamp.rewriting.scores import score as score
from patchclamp.rewriting.scores import summary as summary

__all__ = ["Covariance", "Fact", "covariance", "covariances", "sample_prefixes", "score", "summary"]
