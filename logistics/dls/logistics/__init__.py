"""logistics: moves and keeps bytes, and knows no catalogue."""
