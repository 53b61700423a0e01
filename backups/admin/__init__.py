"""The pages: `frame` is what they share, every other module is one area with its addresses (`urls`)."""
