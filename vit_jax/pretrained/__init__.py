"""Published weights: readers and writers, one file a format; where files come from; surgery."""
