package policy

import "go.yaml.in/yaml/v4"

func (d *decoder) resource(n *yaml.Node) Resource {
	r := Resource{At: d.at(n)}
	before := d.problems.total
	rules := newScope("firewall rule", " of this resource")
	understood := d.mapping(n, "a resource",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			r.Name = parsed(d, v, "name", parseName)
			d.resources.declare(&d.problems, r.Name, d.at(v))
		}},
		field{key: "subscription", read: func(v *yaml.Node) {
			r.Subscription = parsed(d, v, "subscription", parseName)
			d.subscriptions.use(&d.problems, r.Subscription, d.at(v))
		}},
		field{key: "addresses", read: func(v *yaml.Node) {
			r.Addresses = filled(d, v, "addresses", "list the addresses of the resource", parseMemberPrefix)
		}},
		field{key: "interfaces", read: func(v *yaml.Node) {
			r.Interfaces = filled(d, v, "interfaces", "list the interfaces of the resource", parseInterfacePattern)
		}},
		field{key: "host", read: func(v *yaml.Node) {
			r.Host = parsed(d, v, "host", parsePattern)
		}},
		field{key: "services", read: func(v *yaml.Node) {
			r.Services = filled(d, v, "services", "list the services, or remove the key to protect all ports", ParsePorts)
		}},
		field{key: "publicNetworkAccess", read: func(v *yaml.Node) {
			r.PublicNetworkAccess, _ = choice(d, v, "publicNetworkAccess", Enabled, Disabled, SecuredByPerimeter)
		}},
		field{key: "firewall", read: func(v *yaml.Node) {
			d.notEmpty(v, "firewall", "list the resource's own rules, or remove the key if it has none")
			for _, item := range d.list(v, "firewall") {
				r.Firewall = append(r.Firewall, d.rule(item, firewallRule, &rules))
			}
		}},
	)
	if understood {
		d.resourceAddress(n)
	}
	if d.problems.total > before {
		d.flawed[r.Name] = true
	}
	return r
}

// resourceAddress checks that it is clear where the resource is.
func (d *decoder) resourceAddress(n *yaml.Node) {
	addresses, interfaces, host := keyNode(n, "addresses"), keyNode(n, "interfaces"), keyNode(n, "host")
	switch {
	case addresses == nil && interfaces == nil:
		d.add(n, "a resource has neither addresses nor interfaces", "add one of them")
	case addresses != nil && interfaces != nil:
		d.add(lower(addresses, interfaces), "a resource has both addresses and interfaces", "keep one, or write two resources")
	case host != nil && interfaces == nil:
		d.add(host, "host has a meaning only with interfaces", "remove it; addresses are the same on every host")
	}
}

func (d *decoder) privateEndpoint(n *yaml.Node) PrivateEndpoint {
	e := PrivateEndpoint{At: d.at(n)}
	understood := d.mapping(n, "a private endpoint",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			e.Name = parsed(d, v, "name", parseName)
			d.privateEndpoints.declare(&d.problems, e.Name, d.at(v))
		}},
		field{key: "interfaces", read: func(v *yaml.Node) {
			e.Interfaces = filled(d, v, "interfaces", "list the interfaces of the private path", parseInterfacePattern)
		}},
		field{key: "addressPrefixes", read: func(v *yaml.Node) {
			e.AddressPrefixes = filled(d, v, "addressPrefixes", "list the prefixes of the private path", ParsePrefix)
		}},
	)
	if !understood {
		return e
	}
	interfaces, prefixes := keyNode(n, "interfaces"), keyNode(n, "addressPrefixes")
	switch {
	case interfaces == nil && prefixes == nil:
		d.add(n, "a private endpoint has neither interfaces nor addressPrefixes", "add one of them")
	case interfaces != nil && prefixes != nil:
		d.add(lower(interfaces, prefixes), "a private endpoint has both interfaces and addressPrefixes", "write two private endpoints")
	}
	return e
}

// lower returns the node that comes later in the file.
func lower(a, b *yaml.Node) *yaml.Node {
	if a.Line > b.Line || a.Line == b.Line && a.Column > b.Column {
		return a
	}
	return b
}
