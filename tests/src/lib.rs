//! Tests of the whole: the direction of dependencies, and dataflows run through the real dora command.
