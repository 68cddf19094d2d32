"""The names of captions' kinds, languages and sources; light, for configs."""

CAPTION_KINDS = ("short", "dense", "title")
LANGUAGES = ("zh", "en")
SOURCES = ("sidecar", "vlm", "rule", "filename")  # the earlier, the better, unless a config says otherwise
