"""The border to where jobs run. Plain values in, plain values out; no Flask and no database in here."""
