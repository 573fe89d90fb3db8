package decisionlog

// AppendJSON appends the record in NSP's own schema, without a line end.
// It does not allocate beyond the growth of dst.
func (r *Record) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = appendTime(dst, r.Time)
	dst = append(dst, `",`...)
	dst = appendInstant(dst, `"timeGeneratedEndTime":`, r.EndTime)
	if !r.Count.IsZero() {
		dst = appendNumber(dst, `"count":`, uint64(r.Count))
	}
	dst = appendText(dst, `"resourceId":`, r.ResourceID)
	dst = appendText(dst, `"location":`, r.Location)
	dst = appendAlways(dst, `"operationName":`, string(r.Operation))
	dst = appendText(dst, `"category":`, string(r.Category))

	p := &r.Properties
	dst = append(dst, `"properties":{`...)
	dst = appendText(dst, `"serviceResourceId":`, p.ServiceResourceID)
	dst = appendText(dst, `"profile":`, p.Profile)
	dst = appendText(dst, `"accessRulesVersion":`, p.AccessRulesVersion)
	if p.MatchedRule != (MatchedRule{}) {
		dst = append(dst, `"matchedRule":`...)
		dst = p.MatchedRule.appendJSON(dst)
		dst = append(dst, ',')
	}
	dst = p.Source.appendMember(dst, `"source":{`)
	dst = p.Destination.appendMember(dst, `"destination":{`)
	dst = append(dst, `"perimeterd":`...)
	dst = p.Perimeterd.appendJSON(dst)
	return append(dst, "}}"...)
}

func (m *MatchedRule) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	dst = appendAlways(dst, `"accessRule":`, m.AccessRule)
	return closeObject(dst)
}

// appendMember appends the end as a member of an object, unless nothing of it
// is known; open is the key and the opening brace.
func (e *Endpoint) appendMember(dst []byte, open string) []byte {
	if *e == (Endpoint{}) {
		return dst
	}
	dst = append(dst, open...)
	dst = appendAddress(dst, `"ipAddress":`, e.IPAddress)
	dst = appendPort(dst, `"port":`, e.Port)
	dst = appendText(dst, `"protocol":`, e.Protocol)
	dst = appendText(dst, `"fullyQualifiedDomainName":`, e.FullyQualifiedDomainName)
	return append(closeObject(dst), ',')
}

func (x *Extension) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	dst = appendAlways(dst, `"verdict":`, x.Verdict)
	dst = appendAlways(dst, `"wouldBe":`, x.WouldBe)
	dst = appendText(dst, `"reason":`, string(x.Reason))
	dst = appendText(dst, `"accessMode":`, x.AccessMode)
	dst = appendNumber(dst, `"generation":`, uint64(x.Generation))
	dst = appendText(dst, `"interface":`, x.Interface)
	dst = appendAlways(dst, `"direction":`, x.Direction)
	dst = x.Local.appendMember(dst, `"local":{`)
	if x.Flow != (Flow{}) {
		dst = append(dst, `"flow":`...)
		dst = x.Flow.appendJSON(dst)
		dst = append(dst, ',')
	}
	dst = appendText(dst, `"question":`, x.Question)
	if x.PeersNotToldApart {
		dst = append(dst, `"peersNotToldApart":true,`...)
	}
	if x.Member != 0 {
		dst = appendNumber(dst, `"member":`, uint64(x.Member))
	}
	if x.Outcome != 0 {
		dst = appendNumber(dst, `"outcome":`, uint64(x.Outcome))
	}
	return closeObject(dst)
}

func (f *Flow) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	dst = appendInstant(dst, `"started":`, f.Started)
	dst = appendNumber(dst, `"packetsTowards":`, f.PacketsTowards)
	dst = appendNumber(dst, `"bytesTowards":`, f.BytesTowards)
	dst = appendNumber(dst, `"packetsFrom":`, f.PacketsFrom)
	dst = appendNumber(dst, `"bytesFrom":`, f.BytesFrom)
	if f.Midstream {
		dst = append(dst, `"midstream":true,`...)
	}
	return closeObject(dst)
}
