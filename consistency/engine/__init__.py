"""The check itself: reads both stores, compares every record, and says what is wrong. Imports no Django and no Chroma client."""
