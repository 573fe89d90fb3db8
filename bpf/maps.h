/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map. Outer maps of two slots hold one generation each: the slot is the
 * generation's parity, the inner maps are built aside by the agent and never
 * change once their generation is in force. See README.md for sizes and reasons.
 */
#ifndef PERIMETERD_MAPS_H
#define PERIMETERD_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "types.h"

#define GENERATION_SLOTS 2

/* Inner maps get their real size from the agent; 1 is a placeholder. */
#define AGENT_SIZES_IT 1

/* Mapped by the agent: an update by system call is a copy, which might tear. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct control);
} control_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

/* By ifindex: frames that XDP left to TC because their driver takes no metadata. Written by packets. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} xdp_without_note SEC(".maps");

/* ---- one generation ---- */

/* Local addresses that members have in full: address to struct local. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, AGENT_SIZES_IT);
		__type(key, __u32);
		__type(value, struct local);
	});
} locals4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, AGENT_SIZES_IT);
		__type(key, struct address);
		__type(value, struct local);
	});
} locals6 SEC(".maps");

/* Asked before all else, so that a packet of no member costs next to nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__type(value, struct local_marks);
} marked_locals SEC(".maps");

/* The members' shorter prefixes; asked only when control says there are any. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key4);
		__type(value, struct local);
	});
} local_prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key6);
		__type(value, struct local);
	});
} local_prefixes6 SEC(".maps");

/* Every prefix of the policy, once: to its class. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key4);
		__type(value, __u32);
	});
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key6);
		__type(value, __u32);
	});
} prefixes6 SEC(".maps");

/* How to find a class faster than in the tries. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__type(value, struct prefix_index);
} prefix_indexes SEC(".maps");

/* Where the generation's classes are not those that the other tables of prefixes tell. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key4);
		__type(value, __u32);
	});
} prefix_changes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__type(key, struct prefix_key6);
		__type(value, __u32);
	});
} prefix_changes6 SEC(".maps");

/* Of each prefix, a hash of its first bits: an address without its mark is in no prefix. */
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
} prefix_marks4 SEC(".maps");

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
} prefix_marks6 SEC(".maps");

/* Every prefix by its length, and markers on the way to longer ones. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct length_block);
	});
} prefix_lengths4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct length_block);
	});
} prefix_lengths6 SEC(".maps");

/* The whole IPv4 address space, in runs of the same class. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct run_block);
	});
} prefix_runs4 SEC(".maps");

/* What a class means to a scope, where it means anything. */
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
} scope_classes SEC(".maps");

/* By class: the wider class whose meaning counts where it has none, or CLASS_NONE. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, __u32);
	});
} class_parents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct member);
	});
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct span);
	});
} spans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATION_SLOTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, AGENT_SIZES_IT);
		__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct outcome);
	});
} outcomes SEC(".maps");

/* ---- flows ---- */

/* Flows that were not answered yet. A flood of permitted openers may churn them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__type(key, struct flow_key4);
	__type(value, struct flow);
} opening4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__type(key, struct flow_key6);
	__type(value, struct flow);
} opening6 SEC(".maps");

/* Flows that were answered. Preallocated, and nothing evicts them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__type(key, struct flow_key4);
	__type(value, struct flow);
} established4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AGENT_SIZES_IT);
	__type(key, struct flow_key6);
	__type(value, struct flow);
} established6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* ---- decisions ---- */

/* Two rings, so that a flood of denials cannot displace records of allowed flows. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} flow_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} denial_events SEC(".maps");

/*
 * Repeated denials, by peer, and of the peers that found no room there. One slot
 * each: the agent swaps an empty table in, which waits until no packet uses the
 * old one, and then reads that one at rest. So no count is read while it moves.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, AGENT_SIZES_IT);
		__type(key, struct denial_key);
		__type(value, struct denial);
	});
} denials SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, AGENT_SIZES_IT);
		__type(key, struct crowd_key);
		__type(value, struct crowd);
	});
} crowds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, __u32);
	__type(value, struct packet_count);
} packet_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CATEGORY_COUNT);
	__type(key, __u32);
	__type(value, struct decision_count);
} decision_counts SEC(".maps");

#endif
