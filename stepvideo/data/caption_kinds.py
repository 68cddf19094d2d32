"""The names of captions' kinds, languages and sources; light, for configs."""

CAPTION_KINDS = ("short", "dense", "title")
LANGUAGES = ("zh", "en")
HUMAN = "human"  # source of captions that people corrected; it is always taken
SOURCES = ("sidecar", "vlm", "rule", "filename")  # the earlier, the better, unless a config says otherwise
