package datapath

// The C side is the only source of the types both sides share. clang is pinned,
// so that the committed object can be compared byte for byte (scripts/generate).
//
//go:generate ../../scripts/generate
