/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows: finding, entering, moving their state, removing. A flow is in one of
 * two tables: `opening` until it is answered, `established` from then on. Owns
 * no verdict: a flow is in a table because it was allowed.
 */
#ifndef PERIMETERD_FLOW_H
#define PERIMETERD_FLOW_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "settings.h"
#include "types.h"

/* A flow's opener sends the way its direction is numbered. */
_Static_assert((int)DIRECTION_INBOUND == (int)END_TOWARDS, "direction is the opener's way");
_Static_assert((int)DIRECTION_OUTBOUND == (int)END_FROM, "direction is the opener's way");

enum flow_table {
	FLOW_TABLE_ESTABLISHED,
	FLOW_TABLE_OPENING,
};

/*
 * Written as two words, little endian like every object: lookups read more of it at
 * once than a port, and what was written in parts a processor reads as one only after
 * it has reached the cache.
 */
static __always_inline void flow_key4_of(const struct packet *pkt, struct flow_key4 *key)
{
	__u64 *words = (__u64 *)key;

	words[0] = pkt->local.word_be[0] | (__u64)pkt->peer.word_be[0] << 32;
	words[1] = pkt->local_port | (__u32)pkt->peer_port << 16 | (__u64)pkt->protocol << 32;
}

static __always_inline void flow_key6_of(const struct packet *pkt, struct flow_key6 *key)
{
	*key = (struct flow_key6){
		.local_port = pkt->local_port,
		.peer_port = pkt->peer_port,
		.protocol = pkt->protocol,
	};
	__builtin_memcpy(key->local_be, pkt->local.word_be, sizeof(key->local_be));
	__builtin_memcpy(key->peer_be, pkt->peer.word_be, sizeof(key->peer_be));
}

/*
 * Ends what is done with the map of one family. Without it the compiler makes one call
 * of two, and the verifier makes direct calls only of those that always get the same map.
 */
#define flow_map_done() asm volatile("" : : "i"(__LINE__))

static __always_inline struct flow *flow_find(const struct packet *pkt, enum flow_table table)
{
	struct flow *flow;

	if (pkt->family == 4) {
		struct flow_key4 key;

		flow_key4_of(pkt, &key);
		flow = table == FLOW_TABLE_ESTABLISHED ? bpf_map_lookup_elem(&established4, &key)
						       : bpf_map_lookup_elem(&opening4, &key);
		flow_map_done();
	} else {
		struct flow_key6 key;

		flow_key6_of(pkt, &key);
		flow = table == FLOW_TABLE_ESTABLISHED ? bpf_map_lookup_elem(&established6, &key)
						       : bpf_map_lookup_elem(&opening6, &key);
	}
	return flow;
}

/* Enters a flow unless the key is taken. 0, or a negative errno. */
static __always_inline long flow_insert(const struct packet *pkt, enum flow_table table, const struct flow *flow)
{
	if (pkt->family == 4) {
		struct flow_key4 key;

		flow_key4_of(pkt, &key);
		return table == FLOW_TABLE_ESTABLISHED ? bpf_map_update_elem(&established4, &key, flow, BPF_NOEXIST)
						       : bpf_map_update_elem(&opening4, &key, flow, BPF_NOEXIST);
	} else {
		struct flow_key6 key;

		flow_key6_of(pkt, &key);
		return table == FLOW_TABLE_ESTABLISHED ? bpf_map_update_elem(&established6, &key, flow, BPF_NOEXIST)
						       : bpf_map_update_elem(&opening6, &key, flow, BPF_NOEXIST);
	}
}

/* Removes a flow. True for the one caller that did it: it reports the end. */
static __always_inline bool flow_remove(const struct packet *pkt, enum flow_table table)
{
	long error;

	if (pkt->family == 4) {
		struct flow_key4 key;

		flow_key4_of(pkt, &key);
		error = table == FLOW_TABLE_ESTABLISHED ? bpf_map_delete_elem(&established4, &key)
							: bpf_map_delete_elem(&opening4, &key);
		flow_map_done();
	} else {
		struct flow_key6 key;

		flow_key6_of(pkt, &key);
		error = table == FLOW_TABLE_ESTABLISHED ? bpf_map_delete_elem(&established6, &key)
							: bpf_map_delete_elem(&opening6, &key);
	}
	return error == 0;
}

static __always_inline __u32 flow_timeout(__u8 protocol, __u8 state)
{
	__u32 row = TIMEOUT_OTHER;

	if (protocol == PROTOCOL_TCP)
		row = TIMEOUT_TCP;
	else if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_UDPLITE)
		row = TIMEOUT_UDP;
	else if (protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6)
		row = TIMEOUT_ICMP;
	return settings.timeouts[row][state % FLOW_STATE_COUNT];
}

static __always_inline bool flow_is_idle(const struct flow *flow, __u8 protocol)
{
	/* Signed, so that a packet that another CPU stamped a tick later is no wrap. */
	__s32 idle = (__s32)((__u32)clock_jiffies() - flow->seen);

	return idle > (__s32)flow_timeout(protocol, flow->state);
}

static __always_inline bool packet_opens_tcp(const struct packet *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* A SYN on a connection that both sides have closed begins a new one. */
static __always_inline bool flow_is_reopened(const struct flow *flow, const struct packet *pkt)
{
	const __u8 both = FLOW_FIN_TOWARDS | FLOW_FIN_FROM;

	return pkt->protocol == PROTOCOL_TCP && packet_opens_tcp(pkt) &&
	       (flow->state == FLOW_CLOSED || (flow->flags & both) == both);
}

/* How far a is ahead of b; TCP's numbers wrap around. */
static __always_inline __s32 flow_ahead(__u32 a, __u32 b)
{
	return (__s32)(a - b);
}

static __always_inline bool flow_knows(const struct flow *flow, __u32 way)
{
	return flow->expected[way] | flow->acknowledged[way];
}

/* Takes the numbers of a flow's first packet; of no TCP packet they are 0. */
static __always_inline void flow_begin_numbers(struct flow *flow, const struct packet *pkt)
{
	bool towards = pkt->end == END_TOWARDS;
	__u32 acknowledgement = pkt->tcp_flags & TCP_ACK ? pkt->acknowledgement : 0;

	flow->expected[END_TOWARDS] = towards ? pkt->sequence_end : acknowledgement;
	flow->expected[END_FROM] = towards ? acknowledgement : pkt->sequence_end;
	flow->acknowledged[END_TOWARDS] = towards ? pkt->sequence : acknowledgement;
	flow->acknowledged[END_FROM] = towards ? acknowledgement : pkt->sequence;
}

/*
 * Follows TCP's numbers. Whatever the member says is so. The peer's packets may
 * be somebody else's, so they are believed as far as they fit what came before.
 */
static __always_inline void flow_follow(struct flow *flow, const struct packet *pkt)
{
	__u32 way = pkt->end & 1, other = way ^ 1;
	bool trusted = pkt->end == END_FROM;
	__s32 ahead = flow_ahead(pkt->sequence_end, flow->expected[way]);

	if (trusted && pkt->tcp_flags & TCP_SYN) /* perhaps a new connection on an old key */
		flow->expected[way] = flow->acknowledged[way] = flow->expected[other] = flow->acknowledged[other] = 0;
	if (!flow_knows(flow, way)) {
		flow->expected[way] = pkt->sequence_end;
		flow->acknowledged[way] = pkt->sequence;
	} else if (ahead > 0 && (trusted || ahead <= TCP_WINDOW_MAX)) {
		flow->expected[way] = pkt->sequence_end;
	}
	if (!(pkt->tcp_flags & TCP_ACK))
		return;
	ahead = flow_ahead(pkt->acknowledgement, flow->expected[other]);
	if (!flow_knows(flow, other))
		flow->expected[other] = flow->acknowledged[other] = pkt->acknowledgement;
	else if (ahead > 0 && !trusted)
		return; /* of what was never sent */
	else if (ahead > 0)
		flow->expected[other] = pkt->acknowledgement;
	if (flow_ahead(pkt->acknowledgement, flow->acknowledged[other]) > 0)
		flow->acknowledged[other] = pkt->acknowledgement;
}

/*
 * True if the receiver would take this FIN for one. The member's own is believed; a
 * FIN without ACK is discarded by any connection that stands. The segment may be
 * one that is sent again, of which the receiver has the beginning.
 */
static __always_inline bool flow_believes_fin(const struct flow *flow, const struct packet *pkt)
{
	__u32 way = pkt->end & 1;

	return pkt->end == END_FROM || !flow_knows(flow, way) ||
	       (pkt->tcp_flags & TCP_ACK && flow_ahead(pkt->sequence_end, flow->acknowledged[way]) > 0 &&
		flow_ahead(pkt->sequence, flow->expected[way]) <= TCP_OVERTAKING_MAX);
}

/*
 * True if the receiver would take this reset for one (RFC 9293, 3.10.7.3 and
 * RFC 5961, 3.2): others must not shorten the life of a connection that goes on.
 */
static __always_inline bool flow_believes_reset(const struct flow *flow, const struct packet *pkt)
{
	__u32 way = pkt->end & 1, other = way ^ 1;

	if (!flow_knows(flow, way)) /* the first that comes back answers the opening, or is nothing */
		return pkt->tcp_flags & TCP_ACK &&
		       flow_ahead(pkt->acknowledgement, flow->acknowledged[other]) > 0 &&
		       flow_ahead(pkt->acknowledgement, flow->expected[other]) <= 0;
	return flow_ahead(pkt->sequence, flow->acknowledged[way]) >= 0 &&
	       flow_ahead(pkt->sequence, flow->expected[way]) <= 0;
}

/*
 * True for what opens a flow the other way on the key of this one: an echo
 * request, or a SYN unless both sides are opening at the same time. Who opened a
 * flow that was met in mid-stream is a guess, on which nobody may open another.
 */
static __always_inline bool flow_is_crossed(const struct flow *flow, const struct packet *pkt)
{
	if (pkt->end == flow->direction)
		return false;
	if (pkt->icmp_kind == ICMP_KIND_REQUEST)
		return true;
	return pkt->protocol == PROTOCOL_TCP && packet_opens_tcp(pkt) && flow->flags & (FLOW_MIDSTREAM | FLOW_ANSWERED);
}

/* The flag for the packet's FIN, if it has one. */
static __always_inline __u8 flow_fin(const struct packet *pkt)
{
	if (!(pkt->tcp_flags & TCP_FIN))
		return 0;
	return pkt->end == END_TOWARDS ? FLOW_FIN_TOWARDS : FLOW_FIN_FROM;
}

/* The state after this packet. Notes FINs in the flow's flags. */
static __always_inline __u8 flow_next_state(struct flow *flow, const struct packet *pkt)
{
	const __u8 both = FLOW_FIN_TOWARDS | FLOW_FIN_FROM;
	bool answer = pkt->end != flow->direction;
	__u8 state = flow->state;

	if (pkt->protocol != PROTOCOL_TCP)
		return state == FLOW_OPENING && answer ? FLOW_ESTABLISHED : state;
	if (pkt->tcp_flags & TCP_RST)
		return flow_believes_reset(flow, pkt) ? FLOW_CLOSED : state;
	if (answer && pkt->tcp_flags & TCP_ACK && !(flow->flags & FLOW_ANSWERED))
		flow->flags |= FLOW_ANSWERED; /* once: another CPU may note a FIN there in the same moment */
	/*
	 * Anybody can have a SYN answered, from an address that is not theirs, and
	 * send an ACK that goes nowhere. Only what the member itself sends next says
	 * that a connection lives.
	 */
	if (state == FLOW_OPENING && pkt->end == END_FROM && !(pkt->tcp_flags & TCP_SYN) && flow->packets[END_TOWARDS])
		state = FLOW_ESTABLISHED;
	if (pkt->tcp_flags & TCP_FIN && !flow_believes_fin(flow, pkt))
		return state;
	if (pkt->tcp_flags & TCP_FIN)
		flow->flags |= flow_fin(pkt);
	else if ((flow->flags & both) == both && pkt->tcp_flags & TCP_ACK)
		return FLOW_CLOSED; /* the last FIN is acknowledged */
	if (state == FLOW_ESTABLISHED && flow->flags & both)
		state = FLOW_CLOSING;
	return state;
}

/* Counts the packet and moves the state. True if the flow closed with it. */
static __always_inline bool flow_advance(struct flow *flow, const struct packet *pkt)
{
	__u32 way = pkt->end & 1;
	__u32 now = clock_jiffies();
	__u8 before = flow->state, state;

	state = flow_next_state(flow, pkt);
	if (state != before)
		flow->state = state;
	if (pkt->protocol == PROTOCOL_TCP && !(pkt->tcp_flags & TCP_RST))
		flow_follow(flow, pkt);
	/* What arrives after the close does not keep the entry. */
	if (before != FLOW_CLOSED && flow->seen != now)
		flow->seen = now;
	__sync_fetch_and_add(&flow->packets[way], 1);
	__sync_fetch_and_add(&flow->bytes[way], pkt->length);
	return state == FLOW_CLOSED && before != FLOW_CLOSED;
}

/*
 * Which flows leave `opening`: those whose loss would be felt, and which an
 * outsider with invented addresses cannot make by the thousand. An inbound flow
 * without a handshake is judged again and allowed again by its next packet, so
 * it has to go on for a while; one of no member never takes such a place.
 */
static __always_inline bool flow_is_settled(const struct flow *flow, const struct packet *pkt)
{
	bool answered = flow->state != FLOW_OPENING;
	bool goes_on = flow->packets[flow->direction & 1] >= ONE_WAY_PACKETS;

	if (flow->flags & FLOW_UNLISTED || flow->state == FLOW_CLOSED)
		return false;
	if (pkt->protocol == PROTOCOL_TCP)
		return answered;
	return flow->direction == DIRECTION_OUTBOUND ? answered || goes_on : answered && goes_on;
}

/*
 * Moves a settled flow where nothing evicts it. If that table is full it stays
 * where it is: nothing that was allowed is cut. A packet that another CPU counts
 * in the same moment may be missing in the copy.
 */
static __always_inline void flow_settle(const struct packet *pkt, const struct flow *flow)
{
	struct flow copy = *flow;

	if (flow_insert(pkt, FLOW_TABLE_ESTABLISHED, &copy) == 0)
		flow_remove(pkt, FLOW_TABLE_OPENING);
}

#endif
