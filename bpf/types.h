/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every struct that crosses between the kernel and user space, with who writes
 * it and who reads it. This is the only definition: bpf2go makes the Go side.
 * Addresses and fields named _be are in network byte order, all else is in the
 * host's. Structs have no implicit padding, so that keys compare by bytes.
 * A change of any of them is a new PIN_LAYOUT (pkg/datapath).
 */
#ifndef PERIMETERD_TYPES_H
#define PERIMETERD_TYPES_H

#include <linux/types.h>

#include "vocabulary.h"

/* A name has at most 253 characters; a zero ends it. */
#define NAME_TEXT 256

/* 16 bytes; an IPv4 address is in the first four, the rest zero. */
struct address {
	__u32 word_be[4];
};

/* ---- the policy: written by the agent for one generation, read by packets ---- */

/*
 * What is in force. Written by the agent in one 8-byte store, read once by
 * every packet; its parity picks the slot of every outer map.
 */
struct control {
	__u32 generation;	/* 0: nothing in force yet */
	__u32 flags;		/* enum control_flag */
} __attribute__((aligned(8)));

enum control_flag {
	CONTROL_STRICT_HERE = 1,	/* a strict member lives here: drop what nobody can be asked about */
	CONTROL_LOCAL_PREFIXES4 = 2,	/* locals4 alone does not tell: ask local_prefixes4 too */
	CONTROL_LOCAL_PREFIXES6 = 4,
	CONTROL_PRIVATE_INTERFACES = 8,	/* some interface is a private endpoint */
	CONTROL_NAMES = 16,		/* some member's outbound rules have names */
	CONTROL_NEXT = 32,		/* the other slot holds the generation to come, whole: names are learnt for both */
};

struct prefix_key4 {
	__u32 length;		/* bits, 0 to 32 */
	__u32 address_be;
};

struct prefix_key6 {
	__u32 length;		/* bits, 0 to 128 */
	__u32 address_be[4];
};

struct marks_shape {
	__u32 bits;		/* of an address that are hashed; 0 = there are no marks */
	__u32 count_log2;	/* of the marks */
};

/* A length of prefixes, in the binary tree of those there are. Its nodes have numbers, the root 0, which elsewhere is none. */
struct length_node {
	__u64 mask_be[2];	/* the first so many bits of an address */
	__u8 length;
	__u8 shorter;		/* where to go on if there is no entry of this length, */
	__u8 longer;		/* and if there is one that says LENGTH_LONGER */
	__u8 unused[5];
};

enum length_bound {
	LENGTHS_MOST = 128,	/* 1 to 128 */
	LENGTH_LOOKS_MOST = 8,	/* the depth of the tree */
	LENGTH_ENTRIES = 3,	/* in a block */
};

struct family_index {
	struct marks_shape marks;
	__u8 runs;		/* IPv4: prefix_runs4 alone tells */
	__u8 changes;		/* prefix_changes4 or prefix_changes6 is asked first */
	__u8 unused[6];
	__u32 length_blocks;	/* of prefix_lengths4 or prefix_lengths6, which alone tells; 0 = it does not */
	__u32 length_class;	/* of addresses for which it has no entry */
	struct length_node length_tree[LENGTHS_MOST];
};

/*
 * Where the classes of a generation's prefixes are, by slot. The agent picks what
 * is fast for the prefixes at hand; every choice gives the same classes.
 */
struct prefix_index {
	struct family_index of4, of6;
};

/*
 * A piece of prefix_runs4: a node, or 16 leaves. A node stands for 256 neighbouring
 * networks (the first 65536 for all /24 of a /16, by its number, the others for all
 * addresses of a /24). A run is neighbours of the same leaf.
 */
struct run_block {
	__u32 words[16];
};

enum run_word {
	RUN_STARTS = 0,		/* eight words: a bit for each network, set where a run begins */
	RUN_BEFORE = 8,		/* two words: a byte for each of those eight, how many begin before it */
	RUN_FIRST = 10,		/* number of the leaf of the first run; the others follow */
};

enum run_leaf {
	RUN_NODE = 1 << 30,	/* a leaf that is no class but the number of a node */
};

/*
 * A piece of prefix_lengths4 or prefix_lengths6. An entry is a prefix, or a marker on
 * the way to longer ones; its class is the one of the longest prefix around it. It is
 * in one of the two blocks that a hash of its length and address tells.
 */
struct length_block {
	__u64 address_be[LENGTH_ENTRIES][2];
	__u32 value[LENGTH_ENTRIES];	/* class and LENGTH_LONGER */
	__u8 length[LENGTH_ENTRIES];	/* 0: no entry */
	__u8 spilled;			/* 1: some entries may be in their second block and not here, in their first */
};

enum length_entry {
	LENGTH_LONGER = 1 << 30,	/* some prefix inside it is of a length that comes after, by length_node.longer */
	LENGTH_NO_ENTRY = 1u << 31,	/* as a value: there is none */
};

/*
 * A list of what applies to which ports: a piece of the spans table, sorted, that
 * covers every (protocol, port). count 0: first itself is the answer for all.
 */
struct span_list {
	__u32 first;
	__u32 count;
};

/* One span: from this point on (up to the next span's), the answer is value. */
struct span {
	__u32 from;		/* protocol << 16 | port */
	__u32 value;		/* a member or an outcome */
};

/* Which members a local address carries. */
struct local {
	struct span_list services;	/* by local port: member, or MEMBER_NONE */
	__u32 outbound;			/* the member that outbound traffic belongs to */
	__u32 flags;			/* enum local_flag */
};

/*
 * Which local addresses locals4 and locals6 hold, by a hash of each: an address
 * whose bit is 0 is in neither. Derived from them; by slot of the generation.
 */
#define LOCAL_MARKS_LOG2 18

struct local_marks {
	__u64 words[(1 << LOCAL_MARKS_LOG2) / 64];
};

enum local_flag {
	LOCAL_STRICT_INBOUND = 1,	/* 1 << enum direction: one of its members is strict */
	LOCAL_STRICT_OUTBOUND = 2,
	LOCAL_AUDIT = 4,		/* one of its members is in Audit */
	LOCAL_OWN = 8,			/* an address of this host itself, not of what lives behind it */
};

enum {
	MEMBER_NONE = 0,	/* members count from 1 */
	CLASS_NONE = 0,		/* covered by no list but those of all addresses */
};

/* One governed resource. Indexed by member number; both by enum direction. */
struct member {
	__u32 scope[2];			/* whose rules count */
	struct span_list otherwise4[2];	/* IPv4 peers whose class means nothing to the scope */
	struct span_list otherwise6[2];
	struct span_list names;		/* outbound: where in name_rules the rules with names begin; all 0 = none has */
};

/* What a class of peers means to a scope. */
struct scope_class {
	__u32 scope;
	__u32 class;
};

/* What a span says about a first packet. Indexed by outcome number. */
struct outcome {
	__u64 expires;		/* jiffies; 0 = never. From then on `after` counts */
	__u32 after;		/* outcome that takes its place */
	__u32 member;		/* names another member than the one asked, or MEMBER_NONE */
	__u8 verdict;		/* enum verdict: what is done */
	__u8 would_be;		/* enum verdict: what Enforced would do */
	__u8 reason;
	__u8 category;
	__u8 names;		/* enum outcome_names */
	__u8 pad[3];
};

/* Which rules with names come before an outcome, and where one stands itself. */
enum outcome_names {
	NAMES_NOT_ASKED,	/* what is above all access rules, or one of them */
	NAMES_ACCESS_RULE,
	NAMES_RESOLVER,		/* access to resolvers */
	NAMES_FIREWALL_RULE,	/* of the resource's own rules */
	NAMES_DEFAULT,
};

/* An interface of this host. Written by the agent; key: ifindex. */
struct interface {
	__u32 flags;		/* enum interface_flag */
	/*
	 * Of a private endpoint, the outcome for all it carries, by slot of the
	 * generation and enum direction. 0: it is none.
	 */
	__u32 private_path[2][2];
};

enum interface_flag {
	INTERFACE_UPLINK = 1,	/* attached: ingress judges the destination's end */
	INTERFACE_WORKLOAD = 2,	/* attached: ingress judges the source's end */
};

/*
 * Names of outbound rules, by name in a trie of prefixes: the text from its last
 * character on, in lower case, without a trailing dot. An exact name ends with a
 * zero, a wildcard with the dot that it has in front. The value is a class: which
 * of the policy's names cover such a name.
 */
struct name_key {
	__u32 length;		/* bits */
	__u8 text[NAME_TEXT];
};

/* A rule with names, in the order in which they count for a member. A set of 0 ends the list. */
struct name_rule {
	__u64 set;
	__u32 outcome;
	__u32 pad;
};

/* ---- names: written by packets and by the agent; the agent removes what is over ---- */

/*
 * An address that a set of names has opened. A set is the names of one rule of
 * one profile or resource; its number is made from these, so it stays while they do.
 */
struct learnt_key {
	__u64 set;
	struct address address;
	__u32 family;		/* 4 or 6 */
	__u32 pad;
};

struct learnt {
	__u64 expires;		/* jiffies: from then on it opens no flow */
	__u64 used;		/* jiffies, of the last flow it opened; 0 = none */
	__u64 since;		/* jiffies */
	__u32 slot;		/* in its set */
	__u32 by;		/* enum learnt_by, of the last time */
	__u8 name[NAME_TEXT];	/* that was asked for: its end as in name_key, zeros before it */
};

/* How full a set is. Made by the agent before a generation with it is in force, then written by packets. */
struct learnt_set {
	__u64 next;		/* slot; counts on, and wraps at the limit */
	__u32 limit;		/* slots there are: so many for each name of the set */
	__u32 pad;
};

struct learnt_slot {
	__u64 set;
	__u32 slot;
	__u32 pad;
};

/* A question that a member has asked. LRU; removed by its answer. */
struct query_key {
	struct address local;
	struct address peer;	/* the resolver */
	__u16 local_port;
	__u16 id;
	__u32 family;
};

struct query {
	__u64 asked;		/* jiffies */
	__u32 type;		/* of records */
	__u32 pad;
	__u8 name[NAME_TEXT];	/* as in struct learnt */
};

/* An answer for the agent, in a ring; the message follows. */
struct name_answer {
	struct address local;
	struct address peer;
	__u32 family;
	__u32 why;		/* enum name_event: a NAME_LEFT_ one */
	__u32 type;		/* of records, that were asked for */
	__u32 length;		/* of the message that follows; of a longer one it is the beginning */
	__u8 name[NAME_TEXT];
};

/* ---- flows: written by packets; the agent reads them and removes the idle ---- */

struct flow_key4 {
	__u32 local_be;
	__u32 peer_be;
	__u16 local_port;	/* ICMP echo: the identifier; others without ports: 0 */
	__u16 peer_port;	/* ICMP echo: the opener, 1 = peer, 2 = local */
	__u8 protocol;
	__u8 pad[3];
} __attribute__((aligned(8)));

struct flow_key6 {
	__u32 local_be[4];
	__u32 peer_be[4];
	__u16 local_port;
	__u16 peer_port;
	__u8 protocol;
	__u8 pad[3];
};

/* A flow that is allowed. The end that `from` packets come from is the member. */
struct flow {
	__u64 packets[2];	/* by way: 0 towards the member, 1 from it */
	__u64 bytes[2];		/* L3 bytes */
	__u64 started;		/* ns since boot */
	__u32 seen;		/* jiffies, low half, of the last packet that prolongs it */
	__u32 generation;	/* judged under */
	__u32 outcome;		/* of that generation */
	__u32 member;		/* of that generation */
	__u32 ifindex;		/* where its first packet was judged */
	__u8 direction;		/* enum direction: who opened it */
	__u8 state;		/* enum flow_state */
	__u8 flags;		/* enum flow_flag */
	__u8 reason;		/* of the outcome; with category, for end records */
	__u8 category;
	__u8 arrives;		/* 1 << way: its packets of this way are judged where they come in */
	__u8 pad[6];
	__u32 expected[2];	/* TCP, by way: what its next new byte is numbered; with acknowledged 0: not known */
	__u32 acknowledged[2];	/* TCP, by way: what the other side has of it */
};

enum flow_state {
	FLOW_OPENING,		/* no reply seen */
	FLOW_ESTABLISHED,	/* answered; TCP: and the member went on after the handshake */
	FLOW_CLOSING,		/* a FIN from one side */
	FLOW_CLOSED,		/* FINs from both sides and the last ACK, or RST */
	FLOW_STATE_COUNT,
};

enum flow_flag {
	FLOW_FIN_TOWARDS = 1,	/* a FIN was seen on its way towards the member */
	FLOW_FIN_FROM = 2,
	FLOW_EXPIRES = 4,	/* its outcome has an end: ask again at each packet */
	FLOW_ENDED = 8,		/* the end was reported */
	FLOW_MIDSTREAM = 16,	/* entered without its opening packet */
	FLOW_WOULD_BE_DENIED = 32, /* Audit: Enforced would have denied it */
	FLOW_UNLISTED = 64,	/* of no member, kept so that its answers pass; never reported */
	FLOW_ANSWERED = 128,	/* TCP: the side that did not open it has acknowledged something */
};

/* First fragments: written by packets, LRU. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u8 protocol;
	__u8 family;		/* 4 or 6 */
	__u8 end;		/* enum end */
	__u8 pad;
};

struct fragment {
	__u32 seen;		/* jiffies, low half */
	__u16 header;		/* bytes, up to the end of the L4 header, a later fragment must not reach into */
	__u8 verdict;		/* enum verdict */
	__u8 pad;
};

/* ---- decisions: written by packets, read by the agent ---- */

/* One decision in a ring. */
struct event {
	__u64 time;		/* ns since boot */
	__u64 started;		/* flow end and cut: when it began, ns since boot */
	__u64 packets[2];	/* flow end and cut: by way, 0 towards the member */
	__u64 bytes[2];
	struct address local;
	struct address peer;
	__u32 generation;	/* whose members and outcomes the numbers below are */
	__u32 outcome;		/* 0 = none: judged without the policy */
	__u32 member;		/* MEMBER_NONE: could not be known */
	__u32 ifindex;
	__u16 local_port;
	__u16 peer_port;
	__u8 kind;		/* enum event_kind */
	__u8 family;		/* 4, 6, or 0 when the addresses could not be read */
	__u8 protocol;
	__u8 direction;		/* enum direction */
	__u8 verdict;		/* enum verdict */
	__u8 would_be;		/* enum verdict */
	__u8 reason;
	__u8 category;
	__u8 flow_flags;	/* enum flow_flag */
	__u8 pad[3];
};

/* A denial with a name, in the same ring as others. */
struct named_event {
	struct event event;
	__u8 name[NAME_TEXT];	/* as in struct learnt; of a question that cannot be read, as far as it can */
};

/* Denials that repeat one already reported are counted here. */
struct denial_key {
	struct address local;
	struct address peer;
	__u32 generation;
	__u16 port;		/* the opener's destination port */
	__u8 protocol;
	__u8 family;
	__u8 direction;
	__u8 reason;
	__u8 verdict;
	__u8 pad;
};

/* A row. What each packet writes is next to the key, where it was just looked up. */
struct denial {
	__u64 count;		/* repetitions: the first denial is not in it */
	__u64 last;		/* jiffies */
	__u16 opener_port;	/* source port of the last one; of a crowd it tells nothing */
	__u8 category;
	__u8 pad;
	__u32 outcome;
	__u64 first;		/* ns since boot, of the denial that was reported */
	__u32 member;
	__u32 ifindex;
};

/*
 * Once there is no room for another peer, those that are left are counted together.
 * Nothing that a sender picks at will is in the key, so that there is always room
 * for a crowd.
 */
struct crowd_key {
	__u32 generation;
	__u32 outcome;
	__u32 member;
	__u8 protocol;		/* 0: any that has no ports and is not ICMP */
	__u8 family;
	__u8 direction;
	__u8 reason;
	__u8 verdict;
	__u8 pad[3];
};

/* The row of a crowd: what the first of it had, and whether another had something else. */
struct crowd {
	struct denial denial;
	struct address local;
	__u16 port;		/* the opener's destination port; 0 for protocols without */
	__u8 protocol;
	__u8 other_local;	/* not 0: one had, and so the next ones */
	__u8 other_port;
	__u8 other_protocol;
	__u8 other_interface;
	__u8 pad;
};

/*
 * Per category, per CPU. A decision made is `decided` once, and then one of
 * three: submitted + folded + lost = decided.
 */
struct decision_count {
	__u64 decided;
	__u64 submitted;	/* into a ring */
	__u64 folded;		/* into a denial */
	__u64 crowded;		/* of these, into one of a crowd */
	__u64 lost;		/* the ring was full */
	__u64 ends_submitted;	/* ends of flows are no decisions, but can be lost too */
	__u64 ends_lost;
};

/* Per reason, per CPU. */
struct packet_count {
	__u64 packets;
	__u64 bytes;
};

/* Which end of a packet a hook judges. */
enum end {
	END_TOWARDS,		/* local is the destination */
	END_FROM,		/* local is the source */
};

#endif
