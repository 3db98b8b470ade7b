"""Fixed points and linear systems of rows of numbers; nothing here knows a layer."""
