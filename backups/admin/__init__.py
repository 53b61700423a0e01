"""The pages: `frame` is what they share; every other module or package is one area, with its addresses."""
