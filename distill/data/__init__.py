"""Reading, checking, augmenting, loading and caching of landmark data (see annotations, transforms, loading, cache)."""
