"""How a character answers where nobody says otherwise: the studio's chats, the command line, and what an export asks of engines."""

TEMPERATURE = 0.7
TOP_P = 0.95  # of the likeliest tokens, those that together have this share
TOP_K = 64  # ... and at most so many: sorting a whole vocabulary costs more than it changes
LIMIT = 160  # tokens of an answer at most
