#!/bin/sh
# Becomes the node that this file is named for. All nodes are in the program beside it, so an installation has their code once.
own=$(readlink -f -- "$0") && exec "${own%/*}/difflow" node "${own##*/}" "$@"
