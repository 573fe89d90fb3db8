/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to a struct packet. Owns every question about what the bytes are
 * and none about what may pass. Each step checks that the header it reads is
 * inside both the readable bytes and the packet's own length, since the kernel
 * trims to the latter before it delivers.
 */
#ifndef PERIMETERD_PACKET_H
#define PERIMETERD_PACKET_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "headers.h"
#include "settings.h"
#include "types.h"

/*
 * Reads a field of a packet as the verifier has never seen it before. A packet
 * lives in map memory, where the verifier keeps no values; without this the
 * compiler carries them in registers, and each way to reach a place is verified
 * for itself.
 */
#define forget(field) (*(volatile __typeof__(field) *)&(field))

/* Where the bytes are. Filled by the hook. */
struct frame {
	void *data;
	void *end;		/* of what can be read without pulling */
	__u32 length;		/* of the whole frame, not only of the readable part */
	__u16 protocol;		/* ethertype, for devices without a link header */
	__u32 network_offset;	/* where the IP header is, without a link header */
	bool link_header;	/* data begins with an Ethernet header */
	bool segments;		/* a GSO packet: its IP length may be meaningless */
	bool quoted;		/* the IP packet is a quotation: cut short, 8 bytes of L4 */
};

/*
 * The `size` bytes at `offset`, or NULL if they are not all readable. The empty
 * asm keeps the pointer in one register: older verifiers know of a checked
 * pointer only by that, and compilers like to compute it twice.
 */
static __always_inline void *frame_at(const struct frame *frame, __u32 offset, __u32 size)
{
	void *at = frame->data + offset;

	asm volatile("" : "+r"(at));
	return at + size > frame->end ? NULL : at;
}

enum fragment_part {
	FRAGMENT_WHOLE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

enum icmp_kind {
	ICMP_KIND_NONE,		/* not ICMP */
	ICMP_KIND_REQUEST,	/* echo request */
	ICMP_KIND_REPLY,	/* echo reply */
	ICMP_KIND_ERROR,	/* quotes another packet */
	ICMP_KIND_OTHER,
};

/*
 * A packet as the questions see it: addresses and ports as local and peer,
 * whichever of the two the packet came from. family is 0 until the addresses
 * are known; what follows it is valid only if parse_frame said REASON_NONE.
 */
struct packet {
	struct address local;
	struct address peer;
	__u32 length;		/* L3 bytes */
	__u32 fragment_id;
	__u32 l3_offset;	/* from the start of the frame's data */
	__u32 ethertype;	/* of what is there */
	__u32 l4_offset;
	__u32 l4_length;	/* bytes the packet has from l4_offset on */
	__u32 sequence;		/* TCP: of its first byte, */
	__u32 sequence_end;	/* and of the byte after its last; SYN and FIN count as one */
	__u32 acknowledgement;
	__u16 fragment_offset;	/* bytes */
	__u16 local_port;	/* host order; see struct flow_key4 for ICMP */
	__u16 peer_port;
	__u8 family;
	__u8 end;		/* enum end */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_kind;
	__u8 hops;		/* TTL or hop limit */
	__u8 fragment;		/* enum fragment_part */
	__u16 header;		/* bytes of what fragments carry, up to the end of the L4 header */
	__u16 fragment_start;	/* where in the frame that begins; 0 = at the L4 header */
};

static __always_inline bool packet_has_ports(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP ||
	       protocol == PROTOCOL_SCTP || protocol == PROTOCOL_DCCP ||
	       protocol == PROTOCOL_UDPLITE;
}

/* Bytes of an L4 header that must be there before any of it is believed. */
static __always_inline __u8 packet_l4_size(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return sizeof(struct tcp_header);
	case PROTOCOL_SCTP:
	case PROTOCOL_DCCP:
		return 12;
	case PROTOCOL_UDP:
	case PROTOCOL_UDPLITE:
	case PROTOCOL_ICMP:
	case PROTOCOL_ICMPV6:
		return 8;
	default:
		return 0;
	}
}

static __always_inline bool packet_is_multicast(const struct packet *pkt, const struct address *address)
{
	__u32 first = bpf_ntohl(address->word_be[0]);

	if (pkt->family == 6)
		return first >> 24 == 0xff;
	/* From and to 0.0.0.0 is the oldest form of broadcast, and Linux delivers it. */
	return first >> 28 == 0xe || first == 0xffffffff || first == 0;
}

static __always_inline void packet_set_addresses4(struct packet *pkt, const struct ipv4_header *ip, enum end end)
{
	pkt->local.word_be[0] = end == END_TOWARDS ? ip->destination_be : ip->source_be;
	pkt->peer.word_be[0] = end == END_TOWARDS ? ip->source_be : ip->destination_be;
}

static __always_inline void packet_set_addresses6(struct packet *pkt, const struct ipv6_header *ip, enum end end)
{
	for (int i = 0; i < 4; i++) {
		pkt->local.word_be[i] = end == END_TOWARDS ? ip->destination_be[i] : ip->source_be[i];
		pkt->peer.word_be[i] = end == END_TOWARDS ? ip->source_be[i] : ip->destination_be[i];
	}
}

static __always_inline void packet_set_ports(struct packet *pkt, const struct ports_header *ports, enum end end)
{
	pkt->local_port = bpf_ntohs(end == END_TOWARDS ? ports->destination_be : ports->source_be);
	pkt->peer_port = bpf_ntohs(end == END_TOWARDS ? ports->source_be : ports->destination_be);
}

/* Reads the TCP header of a packet that has `length` bytes from there on. */
static __always_inline enum reason packet_set_tcp(struct packet *pkt, const struct tcp_header *tcp, __u32 length,
						  enum end end)
{
	__u32 header = (tcp->offset >> 4) * 4;

	pkt->tcp_flags = tcp->flags;
	pkt->sequence = bpf_ntohl(tcp->sequence_be);
	pkt->acknowledgement = bpf_ntohl(tcp->acknowledgement_be);
	pkt->sequence_end = pkt->sequence + (length > header ? length - header : 0) +
			    (tcp->flags & TCP_SYN ? 1 : 0) + (tcp->flags & TCP_FIN ? 1 : 0);
	/* No socket takes a SYN that also ends the connection. */
	if (tcp->flags & TCP_SYN && tcp->flags & (TCP_FIN | TCP_RST))
		return REASON_MALFORMED_L4;
	packet_set_ports(pkt, (const struct ports_header *)tcp, end);
	return REASON_NONE;
}

/*
 * What distinguishes flows of a protocol without ports: the echo identifier or
 * the ICMP type, and which side opened it, so that nothing but an echo reply
 * can pass as the answer to anything.
 */
static __always_inline void packet_set_icmp(struct packet *pkt, const struct icmp_header *icmp)
{
	bool v6 = pkt->protocol == PROTOCOL_ICMPV6;
	__u8 type = icmp->type;
	bool from_opener = true;

	pkt->icmp_type = type;
	pkt->local_port = (__u16)type << 8 | icmp->code;
	if (type == (v6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO_REQUEST)) {
		pkt->icmp_kind = ICMP_KIND_REQUEST;
		pkt->local_port = bpf_ntohs(icmp->id_be);
	} else if (type == (v6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY)) {
		pkt->icmp_kind = ICMP_KIND_REPLY;
		pkt->local_port = bpf_ntohs(icmp->id_be);
		from_opener = false;
	} else if (v6 ? type >= ICMPV6_ERROR_FIRST && type <= ICMPV6_ERROR_LAST
		      : type == ICMP_UNREACHABLE || type == ICMP_QUENCH ||
				type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER) {
		pkt->icmp_kind = ICMP_KIND_ERROR;
	} else {
		pkt->icmp_kind = ICMP_KIND_OTHER;
	}
	/* Echo and the rest must not share keys: an identifier is not a type. */
	pkt->peer_port = (from_opener == (pkt->end == END_TOWARDS)) ? 1 : 2;
	if (pkt->icmp_kind == ICMP_KIND_ERROR || pkt->icmp_kind == ICMP_KIND_OTHER)
		pkt->peer_port += 2;
}

/* Why a packet that ends in a header cannot be judged: of a first fragment, the header goes on in the next. */
static __always_inline enum reason packet_too_short(const struct packet *pkt, enum reason whole)
{
	return forget(pkt->fragment) == FRAGMENT_FIRST ? REASON_TINY_FRAGMENT : whole;
}

/* Reads the L4 header of a packet or of a first fragment. */
static __always_inline enum reason packet_parse_l4(const struct frame *frame, struct packet *pkt)
{
	__u8 protocol = forget(pkt->protocol);
	__u8 size = packet_l4_size(protocol);
	__u32 offset = forget(pkt->l4_offset);

	if (frame->quoted && size > 8)
		size = 8;
	pkt->header = size;
	if (pkt->fragment_start && offset > pkt->fragment_start) /* headers in between are cut like the rest */
		pkt->header += offset - pkt->fragment_start;
	if (forget(pkt->fragment) == FRAGMENT_LATER || size == 0)
		return REASON_NONE;
	if (pkt->l4_length < size)
		return packet_too_short(pkt, REASON_TRUNCATED_L4);
	if (offset > HEADER_BYTES_MAX)
		return REASON_TOO_MANY_HEADERS;

	if (protocol == PROTOCOL_TCP && !frame->quoted) {
		struct tcp_header *tcp = frame_at(frame, offset, sizeof(*tcp));

		return tcp ? packet_set_tcp(pkt, tcp, forget(pkt->l4_length), pkt->end) : REASON_TRUNCATED_L4;
	}
	if (protocol == (pkt->family == 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) {
		struct icmp_header *icmp = frame_at(frame, offset, sizeof(*icmp));

		if (!icmp)
			return REASON_TRUNCATED_L4;
		packet_set_icmp(pkt, icmp);
		return REASON_NONE;
	}
	if (packet_has_ports(protocol)) {
		struct ports_header *ports = frame_at(frame, offset, sizeof(*ports));

		if (!ports)
			return REASON_TRUNCATED_L4;
		packet_set_ports(pkt, ports, pkt->end);
	}
	return REASON_NONE;
}

/*
 * Looks for a source route among IPv4's options: with one, the destination in the
 * header is not where the packet ends, if this host takes part in it. Its numbers
 * are looked for at any byte: what else holds them is as rare as it is.
 */
static __always_inline enum reason packet_check_options(const struct frame *frame, __u32 offset, __u32 size)
{
	for (__u32 i = 0; i < IPV4_OPTIONS_MAX; i++) {
		__u8 *option;

		if (i >= size)
			break;
		option = frame_at(frame, offset + i, 1);
		if (!option)
			return REASON_TRUNCATED_IP;
		if (*option == IPV4_LOOSE_ROUTE || *option == IPV4_STRICT_ROUTE)
			return REASON_SOURCE_ROUTED;
	}
	return REASON_NONE;
}

static __always_inline enum reason packet_parse_ipv4(const struct frame *frame, struct packet *pkt, __u32 offset)
{
	struct ipv4_header *ip = frame_at(frame, offset, sizeof(*ip));
	__u32 available = frame->length - offset;
	__u32 header, total;
	__u16 fragment;

	if (!ip)
		return REASON_TRUNCATED_IP;
	if (ip->version_length >> 4 != 4)
		return REASON_MALFORMED_IP;
	packet_set_addresses4(pkt, ip, pkt->end);
	pkt->family = 4;
	pkt->protocol = ip->protocol;
	pkt->hops = ip->ttl;

	header = (ip->version_length & 0xf) * 4;
	total = bpf_ntohs(ip->total_length_be);
	if (total == 0 && frame->segments)
		total = available; /* longer than 16 bits can say (BIG TCP) */
	if (frame->quoted && total > available)
		total = available;
	if (header < sizeof(*ip) || total < header || total > available)
		return REASON_MALFORMED_IP;
	if (header > sizeof(*ip) && !frame->quoted) {
		enum reason why = packet_check_options(frame, offset + sizeof(*ip), header - sizeof(*ip));

		if (why == REASON_SOURCE_ROUTED)
			pkt->family = 0; /* whose it is cannot be known */
		if (why != REASON_NONE)
			return why;
	}
	pkt->length = total;
	pkt->l4_offset = offset + header;
	pkt->l4_length = total - header;

	fragment = bpf_ntohs(ip->fragment_be);
	pkt->fragment_id = bpf_ntohs(ip->id_be);
	pkt->fragment_offset = (fragment & IPV4_FRAGMENT_OFFSET) * 8;
	if (pkt->fragment_offset)
		pkt->fragment = FRAGMENT_LATER;
	else if (fragment & IPV4_MORE_FRAGMENTS)
		pkt->fragment = FRAGMENT_FIRST;
	return REASON_NONE;
}

/* Asked by a set of bits, since each comparison would be a way of its own to the verifier. */
static __always_inline bool packet_is_extension(__u8 header)
{
	const __u64 extensions = 1ULL << PROTOCOL_HOP_BY_HOP | 1ULL << PROTOCOL_ROUTING | 1ULL << PROTOCOL_FRAGMENT |
				 1ULL << PROTOCOL_AH | 1ULL << PROTOCOL_DESTINATION;

	return header < 64 && extensions >> header & 1;
}

/*
 * Walks the extension headers to the first that is none, in the units of each.
 * Begins at l4_offset, with `protocol` naming the header there.
 */
static __always_inline enum reason packet_walk_ipv6(const struct frame *frame, struct packet *pkt)
{
	for (int i = 0; i <= IPV6_HEADERS_MAX; i++) {
		__u32 offset = forget(pkt->l4_offset);
		__u32 left = forget(pkt->l4_length);
		__u8 this = forget(pkt->protocol);
		struct ipv6_extension *extension;
		__u32 size;

		if (!packet_is_extension(this))
			return REASON_NONE;
		/* Only the first header is for each hop; hosts take another for a protocol they do not know. */
		if (this == PROTOCOL_HOP_BY_HOP && i > 0)
			return REASON_NONE;
		/* What follows the fragment header of a later fragment is payload. */
		if (forget(pkt->fragment) == FRAGMENT_LATER)
			return REASON_NONE;
		if (offset > HEADER_BYTES_MAX || i == IPV6_HEADERS_MAX)
			return REASON_TOO_MANY_HEADERS;
		/* No extension header is shorter than the fragment header. */
		extension = frame_at(frame, offset, sizeof(struct ipv6_fragment));
		if (left < sizeof(struct ipv6_fragment))
			return packet_too_short(pkt, REASON_TRUNCATED_HEADER);
		if (!extension)
			return REASON_TRUNCATED_HEADER;
		size = ((__u32)extension->length + 1) * 8;
		if (this == PROTOCOL_AH)
			size = ((__u32)extension->length + 2) * 4;
		if (this == PROTOCOL_ROUTING && extension->segments_left != 0) {
			pkt->family = 0; /* where it ends is written there, and not in the IP header */
			return REASON_SOURCE_ROUTED;
		}
		if (this == PROTOCOL_FRAGMENT) {
			struct ipv6_fragment *header = (void *)extension;
			__u16 fragment = bpf_ntohs(header->fragment_be);

			size = sizeof(*header); /* whatever its reserved byte says */
			pkt->fragment_id = header->id_be;
			pkt->fragment_offset = fragment & 0xfff8;
			if (pkt->fragment_offset)
				pkt->fragment = FRAGMENT_LATER;
			else if (fragment & IPV6_MORE_FRAGMENTS)
				pkt->fragment = FRAGMENT_FIRST;
			pkt->fragment_start = offset + size;
		}
		if (size > left)
			return packet_too_short(pkt, REASON_TRUNCATED_HEADER);
		pkt->protocol = extension->next_header;
		pkt->l4_offset = offset + size;
		pkt->l4_length = left - size;
	}
	return REASON_TOO_MANY_HEADERS;
}

static __always_inline enum reason packet_parse_ipv6(const struct frame *frame, struct packet *pkt, __u32 offset)
{
	struct ipv6_header *ip = frame_at(frame, offset, sizeof(*ip));
	__u32 available = frame->length - offset;
	__u32 payload;

	if (!ip || available < sizeof(*ip))
		return REASON_TRUNCATED_IP;
	if (ip->version_class >> 4 != 6)
		return REASON_MALFORMED_IP;
	packet_set_addresses6(pkt, ip, pkt->end);
	pkt->family = 6;
	pkt->hops = ip->hop_limit;

	payload = bpf_ntohs(ip->payload_length_be);
	if (payload == 0 && (frame->segments || ip->next_header == PROTOCOL_HOP_BY_HOP))
		payload = available - sizeof(*ip); /* a jumbogram: the option holds the length */
	if (frame->quoted && payload > available - sizeof(*ip))
		payload = available - sizeof(*ip);
	if (payload > available - sizeof(*ip))
		return REASON_MALFORMED_IP;
	pkt->length = sizeof(*ip) + payload;
	pkt->l4_offset = offset + sizeof(*ip);
	pkt->l4_length = payload;
	pkt->protocol = ip->next_header;
	return packet_walk_ipv6(frame, pkt);
}

/*
 * Finds the IP header: past the Ethernet header, if there is one, and the VLAN
 * tags. Fills l3_offset and ethertype.
 */
static __always_inline enum reason packet_parse_link(const struct frame *frame, struct packet *pkt)
{
	__u32 offset = frame->network_offset;
	__u16 type = frame->protocol;

	if (frame->link_header) {
		struct ethernet_header *ethernet = frame_at(frame, 0, sizeof(*ethernet));

		if (!ethernet)
			return REASON_TRUNCATED_LINK;
		offset = sizeof(*ethernet);
		type = bpf_ntohs(ethernet->type_be);
	}
	for (int i = 0; i <= VLAN_TAGS_MAX; i++) {
		struct vlan_header *vlan;

		if (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ)
			break;
		if (i == VLAN_TAGS_MAX)
			return REASON_TOO_MANY_TAGS;
		vlan = frame_at(frame, offset, sizeof(*vlan));
		if (!vlan)
			return REASON_TRUNCATED_LINK;
		type = bpf_ntohs(vlan->type_be);
		offset += sizeof(*vlan);
	}
	pkt->l3_offset = offset;
	pkt->ethertype = type;
	return REASON_NONE;
}

/*
 * Parses the IP packet at l3_offset. REASON_NONE: the packet is understood.
 * REASON_NOT_IP: no IP packet. All else: it cannot be judged. Also used for the
 * packet that an ICMP error quotes.
 */
static __always_inline enum reason packet_parse_ip(const struct frame *frame, struct packet *pkt)
{
	__u32 offset = forget(pkt->l3_offset);
	enum reason why;

	if (pkt->ethertype != ETHERTYPE_IPV4 && pkt->ethertype != ETHERTYPE_IPV6)
		return REASON_NOT_IP;
	if (offset > HEADER_BYTES_MAX)
		return REASON_TOO_MANY_HEADERS;
	if (offset + sizeof(struct ipv4_header) > frame->length)
		return REASON_TRUNCATED_IP;
	why = pkt->ethertype == ETHERTYPE_IPV4 ? packet_parse_ipv4(frame, pkt, offset)
					       : packet_parse_ipv6(frame, pkt, offset);
	if (why != REASON_NONE)
		return why;
	return packet_parse_l4(frame, pkt);
}

/* What packet_parse_plain reads, but for addresses and what the L4 header says. */
static __always_inline struct packet packet_plain(enum end end, __u32 ethertype, __u32 header, __u32 length,
						  __u8 protocol, __u8 hops)
{
	return (struct packet){
		.end = end,
		.ethertype = ethertype,
		.family = ethertype == ETHERTYPE_IPV4 ? 4 : 6,
		.protocol = protocol,
		.hops = hops,
		.length = length,
		.l3_offset = sizeof(struct ethernet_header),
		.l4_offset = sizeof(struct ethernet_header) + header,
		.l4_length = length - header,
	};
}

/*
 * Reads what nearly all frames are: an Ethernet, an IP and a TCP or UDP header, one
 * right behind the other, with all of the packet there. False for all others, whatever
 * they are. packet_parse_link and packet_parse_ip read the same of it, but slower: they
 * ask at every step what may come next. `end` is pkt->end, which the compiler knows.
 */
static __always_inline bool packet_parse_plain(const struct frame *frame, struct packet *pkt, enum end end)
{
	const __u32 l3 = sizeof(struct ethernet_header), least = sizeof(struct ipv4_header) + packet_l4_size(PROTOCOL_UDP);
	struct ethernet_header *ethernet = frame_at(frame, 0, l3 + least);
	struct tcp_header *tcp;
	__u32 header, length;
	__u8 protocol;
	void *l4;

	if (!ethernet)
		return false;
	if (ethernet->type_be == bpf_htons(ETHERTYPE_IPV4)) {
		struct ipv4_header *ip = (void *)(ethernet + 1);

		if (ip->version_length != (4 << 4 | sizeof(*ip) / 4) ||
		    ip->fragment_be & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
			return false;
		header = sizeof(*ip);
		length = bpf_ntohs(ip->total_length_be);
		protocol = ip->protocol;
		*pkt = packet_plain(end, ETHERTYPE_IPV4, header, length, protocol, ip->ttl);
		pkt->fragment_id = bpf_ntohs(ip->id_be);
		packet_set_addresses4(pkt, ip, end);
		l4 = ip + 1;
	} else if (ethernet->type_be == bpf_htons(ETHERTYPE_IPV6)) {
		struct ipv6_header *ip = frame_at(frame, l3, sizeof(*ip) + packet_l4_size(PROTOCOL_UDP));

		if (!ip || ip->version_class >> 4 != 6)
			return false;
		header = sizeof(*ip);
		length = header + bpf_ntohs(ip->payload_length_be);
		protocol = ip->next_header;
		*pkt = packet_plain(end, ETHERTYPE_IPV6, header, length, protocol, ip->hop_limit);
		packet_set_addresses6(pkt, ip, end);
		l4 = ip + 1;
	} else {
		return false;
	}
	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)
		return false;
	pkt->header = packet_l4_size(protocol);
	if (length < header + packet_l4_size(protocol) || l3 + length > frame->length)
		return false;
	if (protocol == PROTOCOL_UDP) {
		packet_set_ports(pkt, l4, end);
		return true;
	}
	tcp = frame_at(frame, l3 + header, sizeof(*tcp));
	return tcp && packet_set_tcp(pkt, tcp, length - header, end) == REASON_NONE;
}

#endif
