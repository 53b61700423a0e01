"""The check itself: reads both stores, compares every record, says what is wrong. No Django, no Chroma client."""
