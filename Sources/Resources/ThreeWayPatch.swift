/// The patch that `kubectl apply` sends: what the new manifest changes or adds against the live object, and what it no longer
/// says against the manifest applied last. The rest of the live object, others' work, is left alone
/// (`strategicpatch.CreateThreeWayMergePatch`).
package enum ThreeWayPatch {
    /// A strategic merge patch; an empty object when there is nothing to do.
    package static func strategic(original: JSONValue, modified: JSONValue, current: JSONValue, schema: Schema) -> JSONValue {
        .object(object(original.objectValue ?? [:], modified.objectValue ?? [:], current.objectValue ?? [:], schema))
    }

    private static func object(_ original: JSONObject, _ modified: JSONObject, _ current: JSONObject, _ schema: Schema) -> JSONObject {
        var patch = JSONObject()
        for member in modified.members {
            add(to: &patch, member.key, original[member.key], member.value, current[member.key], schema.member(member.key))
        }
        for member in original.members where modified[member.key] == nil && current[member.key] != nil {
            patch[member.key] = .null
        }
        return patch
    }

    private static func add(to patch: inout JSONObject, _ key: String, _ original: JSONValue?, _ modified: JSONValue, _ current: JSONValue?, _ schema: Schema) {
        switch (modified, current) {
        case (.object(let new), .object(let live)) where !schema.isAtomic:
            let inner = object(original?.objectValue ?? [:], new, live, schema)
            if !inner.isEmpty { patch[key] = .object(inner) }
        case (.array(let new), .array(let live)):
            switch schema.listMerge {
            case .atomic:
                if new != live { patch[key] = modified }
            case .set:
                set(to: &patch, key, original?.arrayValue ?? [], new, live)
            case .byKey(let identity, let retainsKeys):
                list(to: &patch, key, original?.arrayValue ?? [], new, live, schema.element, identity: identity, retainsKeys: retainsKeys)
            }
        case (.object(let new), .object) where schema.isAtomic:
            if current != modified { patch[key] = .object(replacing(new)) }
        default:
            if current != modified { patch[key] = modified }
        }
    }
    private static func replacing(_ object: JSONObject) -> JSONObject {
        var object = object
        object[StrategicMerge.patch] = "replace"
        return object
    }

    private static func set(to patch: inout JSONObject, _ key: String, _ original: [JSONValue], _ new: [JSONValue], _ live: [JSONValue]) {
        let added = new.filter { !live.contains($0) }
        let removed = original.filter { !new.contains($0) && live.contains($0) }
        guard !added.isEmpty || !removed.isEmpty else { return }
        if !removed.isEmpty { patch[StrategicMerge.deleteFromPrimitiveList + key] = .array(removed) }
        patch[StrategicMerge.setElementOrder + key] = .array(new)
        if !added.isEmpty { patch[key] = .array(added) }
    }

    private static func list(
        to patch: inout JSONObject, _ key: String, _ original: [JSONValue], _ new: [JSONValue], _ live: [JSONValue], _ schema: Schema, identity: String,
        retainsKeys: Bool
    ) {
        func find(_ list: [JSONValue], _ name: JSONValue?) -> JSONObject? { list.first { $0[identity] == name }?.objectValue }
        var changes: [JSONValue] = []
        for element in new {
            guard let object = element.objectValue else { continue }
            let name = object[identity]
            guard let present = find(live, name) else { changes.append(element); continue }
            var change = Self.object(find(original, name) ?? [:], object, present, schema)
            // A union: what the manifest does not name must go when another member comes.
            if retainsKeys, !change.isEmpty { change[StrategicMerge.retainKeys] = JSONValue(object.keys.sorted()) }
            if !change.isEmpty {
                change[identity] = name
                changes.append(.object(change))
            }
        }
        for element in original {
            guard let name = element[identity], find(new, name) == nil, find(live, name) != nil else { continue }
            changes.append(.object([StrategicMerge.patch: "delete", identity: name]))
        }
        let order: [JSONValue] = new.compactMap { $0[identity] }
        let ownLive = live.compactMap { $0[identity] }.filter(order.contains)
        guard !changes.isEmpty || ownLive != order else { return }
        patch[StrategicMerge.setElementOrder + key] = .array(order.map { .object([identity: $0]) })
        if !changes.isEmpty { patch[key] = .array(changes) }
    }
}
