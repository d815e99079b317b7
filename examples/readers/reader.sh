#!/bin/sh
# Prints every Page as CSV, and then every change. PAGESYNC_URL and PAGESYNC_KEY are set.
api() { curl -sf -H "Authorization: Bearer $PAGESYNC_KEY" "$PAGESYNC_URL/v1/$1"; }
cursor() { sed 's/.*"cursor":"\([^"]*\)"}$/\1/'; }
after=$(api 'changes?after=newest' | cursor)
api pages.csv
while answer=$(api "changes?after=$after&wait=30s"); do
  printf '%s\n' "$answer"
  after=$(printf '%s\n' "$answer" | cursor)
done
