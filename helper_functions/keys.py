"""Keys: configurations by a hash, under which what was made with one is found again."""

import hashlib
import json


def key_of(configuration: dict) -> str:
    """Sixteen hexadecimal digits that change with any value."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]
