"""Tools around a data set: doctor, statistics, subsets and conversion, preview. No format is known here."""
