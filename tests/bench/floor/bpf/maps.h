/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of the driver and the floors, and what is in them. */
#ifndef PERIMETERD_FLOOR_MAPS_H
#define PERIMETERD_FLOOR_MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "types.h"

/* 4 or 6, fixed at load: the other family's code is not there. */
volatile const __u32 family = 4;

/* What makes a packet one of its own. Of IPv4, the agent of the benchmark keeps the first two words only. */
struct tuple {
	__u16 source_port;	/* network order, like all of it */
	__u16 destination_port;
	__u32 address[8];	/* IPv4: source, destination; IPv6: four words each */
};

/* Which part of the tuples is walked. Written by user space between slices, moved on by each run. */
struct walk {
	__u32 first;
	__u32 count;
	__u32 at;
	__u32 pad;
	__u64 found;		/* what the floor programs did, to be compared with what they had to */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tuple);
} tuples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

/* Keys as wide as those of the product's flow tables: 16 bytes for IPv4, 40 for IPv6. */
struct key4 {
	__u32 local, peer;
	__u16 local_port, peer_port;
	__u8 protocol;
	__u8 pad[3];
};

struct key6 {
	__u32 local[4], peer[4];
	__u16 local_port, peer_port;
	__u8 protocol;
	__u8 pad[3];
};

union key {
	struct key4 v4;
	struct key6 v6;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, union key);
	__type(value, struct flow);
} hash_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, union key);
	__type(value, struct flow);
} lru_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, union key);
	__type(value, struct flow);
} insert_table SEC(".maps");

struct trie_key {
	__u32 length;
	__u32 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key);
	__type(value, __u32);
} trie_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct denial_key);
	__type(value, struct denial);
} denial_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event);
} scratch SEC(".maps");

#endif
