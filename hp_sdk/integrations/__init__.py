"""Other people's engines, each imported by one file of this folder and only when used."""
