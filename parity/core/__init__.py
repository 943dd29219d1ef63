"""Words that every other room uses: errors, cells and plans, contracts, the record, settings. Imports no other room."""
