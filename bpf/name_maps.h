/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of outbound names. The first of them are a generation's, like those of
 * maps.h; the others are the host's, and outlive agents and generations.
 */
#ifndef PERIMETERD_NAME_MAPS_H
#define PERIMETERD_NAME_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "types.h"
#include "vocabulary.h"

/* ---- one generation ---- */

/* Every name of the policy's rules, to its class. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct name_key);
		__type(value, __u32);
	});
} name_classes SEC(".maps");

/* Which sets of a scope have names that cover a name of the class: a piece of name_sets. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, AGENT_SIZES_IT);
		__type(key, struct scope_class);
		__type(value, struct span_list);
	});
} name_meanings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, __u64);
	});
} name_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct name_rule);
	});
} name_rules SEC(".maps");

/* ---- the host's ---- */

/* Addresses that names have opened. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct learnt_key);
	__type(value, struct learnt);
} learnt_addresses SEC(".maps");

/* By set. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct learnt_set);
} learnt_sets SEC(".maps");

/* Which address has a slot of its set: so that the oldest makes room, whoever is to find it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct learnt_slot);
	__type(value, struct learnt_key);
} learnt_slots SEC(".maps");

/* A member that asks without end loses its own questions first, by being the one who asks. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct query_key);
	__type(value, struct query);
} queries SEC(".maps");

/* The settings' dns.trusted. Written by the agent at start. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct address);
	__type(value, __u32);
} resolvers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} name_answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NAME_EVENT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} name_counts SEC(".maps");

/* Where the programs for packets of DNS are; packets go on there and do not come back. */
enum dns_program {
	DNS_PROGRAM_QUERY,	/* before the decision */
	DNS_PROGRAM_FROM,	/* the decision, after it */
	DNS_PROGRAM_ANSWER,	/* after the decision */
	DNS_PROGRAM_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, DNS_PROGRAM_COUNT);
	__type(key, __u32);
	__type(value, __u32);
} dns_programs SEC(".maps");

#endif
