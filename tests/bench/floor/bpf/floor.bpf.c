// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the product's programs are compared with: programs that do one thing and
 * nothing else, and the driver that gives each run another packet. Compiled once
 * for TC and once, with HOOK_XDP, for XDP. Maps get their sizes, and those with
 * addresses in their keys their key sizes, from package floor.
 *
 * A test run repeats one frame. So a test run is of `drive`, which writes the next
 * tuple into the frame and tail-calls the program under test; what `drive` costs
 * is in every slice alike and goes with the baseline, which is `drive` and `empty`.
 * Tuples are walked in their order, so that reading them is cheap; they are
 * in random order, so that what they lead to is not.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#ifdef HOOK_XDP
#define PROGRAM SEC("xdp") int
typedef struct xdp_md context;
enum { PASS = 2, DROP = 1 };
#else
#define PROGRAM SEC("tc") int
typedef struct __sk_buff context;
enum { PASS = -1, DROP = 2 };
#endif

/* Returned where the benchmark itself is at fault; no verdict of either hook. */
#define BROKEN 77

/* Where the frames of the benchmark, which have no tags and no options, have what. */
enum {
	ETHERTYPE = 12,
	IPV4_PROTOCOL = 14 + 9,
	IPV4_ADDRESSES = 14 + 12,
	IPV4_PORTS = 14 + 20,
	IPV6_PROTOCOL = 14 + 6,
	IPV6_ADDRESSES = 14 + 8,
	IPV6_PORTS = 14 + 40,
};

#define AT(frame, offset, type) (*(type *)((frame) + (offset)))

static __always_inline void *frame_of(context *ctx)
{
	void *frame = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	return frame + (family == 4 ? IPV4_PORTS : IPV6_PORTS) + 8 > end ? (void *)0 : frame;
}

static __always_inline struct walk *walk_of(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&walks, &zero);
}

PROGRAM drive(context *ctx)
{
	struct walk *walk = walk_of();
	struct tuple *tuple;
	__u32 index, at;
	void *frame;

#ifdef HOOK_XDP
	/* Takes back the metadata that the run before left before the frame: the buffer is the same. */
	if (bpf_xdp_adjust_meta(ctx, ctx->data - ctx->data_meta))
		return BROKEN;
#endif
	frame = frame_of(ctx);
	if (!walk || !frame)
		return BROKEN;
	/* Atomic, not for its sum: a processor begins no load before it is through, so no run overlaps the next. */
	at = __sync_fetch_and_add(&walk->at, 1);
	index = walk->first + at;
	if (at + 1 >= walk->count)
		walk->at = 0;
	tuple = bpf_map_lookup_elem(&tuples, &index);
	if (!tuple)
		return BROKEN;
	if (family == 4) {
		AT(frame, IPV4_ADDRESSES, __u32) = tuple->address[0];
		AT(frame, IPV4_ADDRESSES + 4, __u32) = tuple->address[1];
		AT(frame, IPV4_PORTS, __u16) = tuple->source_port;
		AT(frame, IPV4_PORTS + 2, __u16) = tuple->destination_port;
	} else {
		for (int i = 0; i < 8; i++)
			AT(frame, IPV6_ADDRESSES + 4 * i, __u32) = tuple->address[i];
		AT(frame, IPV6_PORTS, __u16) = tuple->source_port;
		AT(frame, IPV6_PORTS + 2, __u16) = tuple->destination_port;
	}
	bpf_tail_call(ctx, &target, 0);
	return BROKEN; /* there was no target */
}

PROGRAM empty(context *ctx)
{
	return PASS;
}

enum {
	TCP = 6,
	UDP = 17,
};

/* Reads what a flow's key is made of; false for what is neither TCP nor UDP. */
static __always_inline bool read_key(context *ctx, union key *key)
{
	void *frame = frame_of(ctx);
	__u8 protocol;

	if (!frame)
		return false;
	protocol = AT(frame, family == 4 ? IPV4_PROTOCOL : IPV6_PROTOCOL, __u8);
	if (protocol != TCP && protocol != UDP)
		return false;
	if (family == 4) {
		if (AT(frame, ETHERTYPE, __u16) != bpf_htons(0x0800) || AT(frame, 14, __u8) != 0x45)
			return false;
		key->v4 = (struct key4){
			.peer = AT(frame, IPV4_ADDRESSES, __u32),
			.local = AT(frame, IPV4_ADDRESSES + 4, __u32),
			.peer_port = AT(frame, IPV4_PORTS, __u16),
			.local_port = AT(frame, IPV4_PORTS + 2, __u16),
			.protocol = protocol,
		};
	} else {
		if (AT(frame, ETHERTYPE, __u16) != bpf_htons(0x86dd))
			return false;
		key->v6 = (struct key6){
			.peer_port = AT(frame, IPV6_PORTS, __u16),
			.local_port = AT(frame, IPV6_PORTS + 2, __u16),
			.protocol = protocol,
		};
		for (int i = 0; i < 4; i++) {
			key->v6.peer[i] = AT(frame, IPV6_ADDRESSES + 4 * i, __u32);
			key->v6.local[i] = AT(frame, IPV6_ADDRESSES + 16 + 4 * i, __u32);
		}
	}
	return true;
}

/* Ends a program that has done its work so many times. */
static __always_inline int done(__u64 times)
{
	struct walk *walk = walk_of();

	if (!walk)
		return BROKEN;
	walk->found += times;
	return PASS;
}

static __always_inline bool parsed(context *ctx)
{
	union key key;

	if (!read_key(ctx, &key))
		return false;
	asm volatile("" : : "r"(&key) : "memory"); /* as if somebody used it */
	return true;
}

PROGRAM parse(context *ctx)
{
	return done(parsed(ctx));
}

PROGRAM parse_drop(context *ctx)
{
	return done(parsed(ctx)) == PASS ? DROP : BROKEN;
}

/* Fills the tables that the lookups are in. The value says 1, so that reading it proves that it was found. */
PROGRAM prime(context *ctx)
{
	struct flow flow = {.packets = {1}};
	union key key;

	if (!read_key(ctx, &key))
		return BROKEN;
	return done(bpf_map_update_elem(&hash_table, &key, &flow, BPF_NOEXIST) == 0 &&
		    bpf_map_update_elem(&lru_table, &key, &flow, BPF_NOEXIST) == 0);
}

/* H */
PROGRAM hash_lookup(context *ctx)
{
	union key key;
	struct flow *flow;

	if (!read_key(ctx, &key))
		return BROKEN;
	flow = bpf_map_lookup_elem(&hash_table, &key);
	return done(flow ? flow->packets[0] : 0);
}

PROGRAM lru_lookup(context *ctx)
{
	union key key;
	struct flow *flow;

	if (!read_key(ctx, &key))
		return BROKEN;
	flow = bpf_map_lookup_elem(&lru_table, &key);
	return done(flow ? flow->packets[0] : 0);
}

/* The least that a filter which follows flows does for a packet: to read its key and look its flow up, or enter it. */
PROGRAM track(context *ctx)
{
	struct flow flow = {.packets = {1}};
	union key key;

	if (!read_key(ctx, &key))
		return PASS;
	if (!bpf_map_lookup_elem(&lru_table, &key))
		bpf_map_update_elem(&lru_table, &key, &flow, BPF_ANY);
	return done(1);
}

/* T: of the peer's address. */
PROGRAM trie_lookup(context *ctx)
{
	struct trie_key key = {.length = family == 4 ? 32 : 128};
	void *frame = frame_of(ctx);
	__u32 *class;

	if (!frame)
		return BROKEN;
	if (family == 4)
		key.address[0] = AT(frame, IPV4_ADDRESSES, __u32);
	else
		for (int i = 0; i < 4; i++)
			key.address[i] = AT(frame, IPV6_ADDRESSES + 4 * i, __u32);
	class = bpf_map_lookup_elem(&trie_table, &key);
	return done(class ? *class : 0);
}

PROGRAM insert(context *ctx)
{
	struct flow flow = {};
	union key key;

	if (!read_key(ctx, &key))
		return BROKEN;
	return done(bpf_map_update_elem(&insert_table, &key, &flow, BPF_NOEXIST) == 0);
}

static __always_inline void fill(struct event *event, const union key *key, __u64 time)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time = time;
	if (family == 4) {
		event->local.word_be[0] = key->v4.local;
		event->peer.word_be[0] = key->v4.peer;
	} else {
		__builtin_memcpy(event->local.word_be, key->v6.local, sizeof(event->local));
		__builtin_memcpy(event->peer.word_be, key->v6.peer, sizeof(event->peer));
	}
}

static __always_inline int build(context *ctx, __u64 time)
{
	struct event *event;
	__u32 zero = 0;
	union key key;

	event = bpf_map_lookup_elem(&scratch, &zero);
	if (!event || !read_key(ctx, &key))
		return BROKEN;
	fill(event, &key, time);
	asm volatile("" : : "r"(event) : "memory");
	return done(1);
}

/* An event without the ring: the clock, and as many bytes. */
PROGRAM build_event(context *ctx)
{
	return build(ctx, bpf_ktime_get_boot_ns());
}

/* The bytes alone: whoever starts a flow has read the clock for the flow. */
PROGRAM fill_event(context *ctx)
{
	return build(ctx, bpf_jiffies64());
}

PROGRAM submit_event(context *ctx)
{
	struct event *event;
	union key key;

	if (!read_key(ctx, &key))
		return BROKEN;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event)
		return done(0);
	fill(event, &key, bpf_ktime_get_boot_ns());
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return done(1);
}

static __always_inline bool read_denial(context *ctx, struct denial_key *denial)
{
	union key key;

	if (!read_key(ctx, &key))
		return false;
	*denial = (struct denial_key){.protocol = TCP, .family = family};
	if (family == 4) {
		denial->local.word_be[0] = key.v4.local;
		denial->peer.word_be[0] = key.v4.peer;
		denial->port = key.v4.local_port;
	} else {
		__builtin_memcpy(denial->local.word_be, key.v6.local, sizeof(denial->local));
		__builtin_memcpy(denial->peer.word_be, key.v6.peer, sizeof(denial->peer));
		denial->port = key.v6.local_port;
	}
	return true;
}

PROGRAM denial_insert(context *ctx)
{
	struct denial_key key;
	struct denial denial = {.count = 1};

	if (!read_denial(ctx, &key))
		return BROKEN;
	return done(bpf_map_update_elem(&denial_table, &key, &denial, BPF_NOEXIST) == 0);
}

PROGRAM denial_lookup(context *ctx)
{
	struct denial_key key;
	struct denial *denial;

	if (!read_denial(ctx, &key))
		return BROKEN;
	denial = bpf_map_lookup_elem(&denial_table, &key);
	return done(denial ? denial->count : 0);
}
