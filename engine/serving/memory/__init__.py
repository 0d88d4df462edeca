"""What characters remember of players from one conversation to the next.

For each player and character a few short facts, each with the line of the player that it came from, and a summary of at most
two sentences; in one readable SQLite file, players.db. After a conversation, `writing` finds the facts (by the model, checked
against the conversation, and by rules); before a reply, `recall` chooses those that matter for the player's last words.

Sources: LD-Agent ("Hello Again! LLM-powered Personalized Agent for Long-term Dialogue", arXiv:2406.05925): short-term turns beside
long-term summaries, found again by topic words, meaning and age together. Inside Out (arXiv:2601.05171): what is known of a user
stays small and in fixed places, changed by add, update, delete. PersonaMem (arXiv:2504.14225): what a user is and wants changes,
and the newest version counts.
"""

from engine.serving.memory.recall import Recalled, recall
from engine.serving.memory.records import Fact, Found, Player, Summary
from engine.serving.memory.store import PlayerMemory

__all__ = ["Fact", "Found", "Player", "PlayerMemory", "Recalled", "Summary", "recall"]
