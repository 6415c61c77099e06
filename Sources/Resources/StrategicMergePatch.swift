/// Strategic merge patch: a merge patch that knows lists (`apimachinery/pkg/util/strategicpatch/patch.go`).
///
/// For each member of the patch:
///   (1) `null` removes; a value of another type replaces;
///   (2) an object merges, unless it says `$patch: replace` (its other members are the new value) or `$patch: delete`;
///       `$retainKeys: […]` first removes every present member it does not name;
///   (3) a list of the schema's `.byKey` merges element by element, `$patch: delete` removes the element with that key,
///       an element that is only `{$patch: replace}` makes the rest of the patch's list the new value;
///   (4) a list of the schema's `.set` is united with the present one;
///   (5) any other list replaces;
///   (6) `$deleteFromPrimitiveList/NAME` removes from the list NAME, before it is merged;
///   (7) `$setElementOrder/NAME` gives the order of the merged list.
extension JSONValue {
    package func strategicMergePatched(by patch: JSONValue, schema: Schema) throws(PatchError) -> JSONValue {
        guard case .object(let changes) = patch else { throw PatchError("a strategic merge patch is an object") }
        return .object(try StrategicMerge.object(objectValue ?? [:], changes, schema, path: "") ?? [:])
    }
}

enum StrategicMerge {
    static let patch = "$patch", retainKeys = "$retainKeys", deleteFromPrimitiveList = "$deleteFromPrimitiveList/", setElementOrder = "$setElementOrder/"

    /// `nil` when the patch deletes the object.
    static func object(_ present: JSONObject, _ changes: JSONObject, _ schema: Schema, path: String) throws(PatchError) -> JSONObject? {
        switch changes[patch]?.stringValue {
        case "replace": return plain(changes)  // (2)
        case "delete": return nil
        case "merge", nil: break
        default: throw PatchError("\(path)$patch: unknown patch type; valid are merge, replace and delete")
        }
        if schema.isAtomic { return plain(changes) }
        var result = present
        try retain(&result, changes, path)
        for change in changes.members where change.key.hasPrefix(deleteFromPrimitiveList) {  // (6)
            let name = String(change.key.dropFirst(deleteFromPrimitiveList.count))
            guard let removed = change.value.arrayValue else { throw PatchError("\(path)\(change.key): an array is expected") }
            guard let list = result[name]?.arrayValue else { continue }
            result[name] = .array(list.filter { !removed.contains($0) })
        }
        for change in changes.members where !change.key.hasPrefix("$") {
            try merge(change.value, into: &result, change.key, schema.member(change.key), path: path)
        }
        for change in changes.members where change.key.hasPrefix(setElementOrder) {  // (7)
            let name = String(change.key.dropFirst(setElementOrder.count))
            guard let order = change.value.arrayValue else { throw PatchError("\(path)\(change.key): an array is expected") }
            guard let list = result[name]?.arrayValue else { continue }
            result[name] = .array(ordered(list, by: order, sent: changes[name]?.arrayValue ?? [], schema.member(name).listMerge))
        }
        return result
    }

    private static func merge(_ value: JSONValue, into result: inout JSONObject, _ key: String, _ schema: Schema, path: String) throws(PatchError) {
        switch (result[key], value) {
        case (_, .null): result[key] = nil  // (1)
        case (let present, .object(let changes)):
            let merged = try object(present?.objectValue ?? [:], changes, schema, path: "\(path)\(key).")
            result[key] = merged.map { .object($0) }
        case (let present, .array(let elements)):
            result[key] = .array(try list(present?.arrayValue ?? [], elements, schema, path: "\(path)\(key)"))
        default: result[key] = value
        }
    }

    private static func retain(_ object: inout JSONObject, _ changes: JSONObject, _ path: String) throws(PatchError) {
        guard let directive = changes[retainKeys] else { return }
        guard let kept = directive.arrayValue?.compactMap(\.stringValue) else { throw PatchError("\(path)$retainKeys: an array of names is expected") }
        for member in changes.members where !member.key.hasPrefix("$") && !member.value.isNull && !kept.contains(member.key) {
            throw PatchError("\(path)$retainKeys: does not contain \(member.key), which the patch sets")
        }
        object.removeAll { !kept.contains($0.key) }
    }

    private static func list(_ present: [JSONValue], _ changes: [JSONValue], _ schema: Schema, path: String) throws(PatchError) -> [JSONValue] {
        switch schema.listMerge {
        case .atomic:  // (5)
            return changes.compactMap(plain)
        case .set:  // (4)
            return changes.reduce(into: present) { list, element in if !list.contains(element) { list.append(element) } }
        case .byKey(let key, _):  // (3)
            let replaces = changes.contains { $0[patch]?.stringValue == "replace" && $0[key] == nil }
            var result = replaces ? [] : present
            for (index, change) in changes.enumerated() {
                guard let element = change.objectValue else { throw PatchError("\(path)[\(index)]: an object is expected") }
                if element[key] == nil && element.contains(patch) { continue }
                guard let identity = element[key] else { throw PatchError("\(path)[\(index)]: does not contain declared merge key: \(key)") }
                let place = result.firstIndex { $0[key] == identity }
                let before = place.flatMap { result[$0].objectValue } ?? [:]
                let merged = try object(before, element, schema.element, path: "\(path)[\(index)].")
                switch (place, merged) {
                case (let place?, let merged?): result[place] = .object(merged)
                case (let place?, nil): result.remove(at: place)
                case (nil, let merged?): result.append(.object(merged))
                case (nil, nil): break
                }
            }
            return result
        }
    }

    /// The value without directives, for what replaces.
    private static func plain(_ value: JSONValue) -> JSONValue? {
        switch value {
        case .object(let object): object[patch]?.stringValue == "delete" ? nil : .object(plain(object))
        case .array(let elements): .array(elements.compactMap(plain))
        default: value
        }
    }
    private static func plain(_ object: JSONObject) -> JSONObject {
        JSONObject(object.members.filter { !$0.key.hasPrefix("$") && !$0.value.isNull }.compactMap { member in plain(member.value).map { (member.key, $0) } })
    }

    /// Elements named by `order` in its order; those it does not name (the server's own) stay behind the element they followed.
    private static func ordered(_ list: [JSONValue], by order: [JSONValue], sent: [JSONValue], _ merge: ListMerge) -> [JSONValue] {
        func identity(_ element: JSONValue) -> JSONValue {
            if case .byKey(let key, _) = merge { return element[key] ?? element }
            return element
        }
        let names = order.map(identity)
        var result: [JSONValue] = names.compactMap { name in list.first { identity($0) == name } }
        var before: JSONValue?
        for element in list {
            let name = identity(element)
            if !names.contains(name) {
                let place = before.flatMap { previous in result.firstIndex { identity($0) == previous } }.map { $0 + 1 } ?? 0
                result.insert(element, at: place)
            }
            before = name
        }
        return result
    }
}
