"""The fixtures of the control plane's tests: attacks are planted on the same site."""

from tests.control.conftest import empty_places, empty_site, library, sample_library, sample_places, site
from tests.trust.signed import made, signed

__all__ = ["empty_places", "empty_site", "library", "made", "sample_library", "sample_places", "signed", "site"]
