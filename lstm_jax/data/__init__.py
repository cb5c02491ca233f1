"""From a text to batches: fetch, plays, corpora, vocabulary, batches."""
